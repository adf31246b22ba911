"""One model writes the candidates, another one refines them.

    python -m tests.examples.refine_elsewhere WRITER REFINER "PROBLEM"

The writer may be small and fast, the refiner large. Each has a tokenizer and a template of its own:
candidates pass as text. Both are stepped side by side, and a problem is refined as soon as its own
candidates are finished.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gsr_engine import Engine, RefineResult, SelfRefineParams


def refine_elsewhere(
    writer: str | Path, refiner: str | Path, problems: Sequence[str], params: SelfRefineParams
) -> list[RefineResult]:
    """selfRef@k of every problem, in order, with the candidates of another model."""
    with Engine.from_pretrained(writer) as small, Engine.from_pretrained(refiner) as large:
        return small.self_refine(problems, params, refiner=large)


def show(result: RefineResult) -> None:
    """Candidates, answer, and what each phase cost."""
    for candidate in result.candidates:
        print(f"candidate {candidate.index}: {candidate.text}")
    print(f"refined: {result.text}\nanswer: {result.answer} {result.error or ''}")
    for name, phase in result.usage.phases.items():
        print(f"{name}: {phase.tokens_computed} tokens, {phase.seconds:.2f} s")


def main() -> None:
    """Two models and a problem from the command line."""
    writer, refiner, problem = sys.argv[1:]
    (result,) = refine_elsewhere(writer, refiner, [problem], SelfRefineParams(k=4, seed=0))
    show(result)


if __name__ == "__main__":
    main()
