"""selfRef@k of many problems, from a file to a file.

    python -m tests.examples.offline_batch problems.jsonl results.jsonl [MODEL]

Each line of `problems.jsonl` is an object with `problem`. Each result is a line of its own, written
as soon as it is there. Problems that `results.jsonl` answers already are skipped, so an interrupted
run goes on where it was. A problem draws from the seed and its line number, so it gets the same
result in any run.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from pathlib import Path
from typing import Any

from gsr_engine import Engine, InvalidRequest, RefineResult, SelfRefineParams
from gsr_engine.demo.report import NANO

AT_ONCE = 256
"""Requests in the engine at a time. The engine queues any number; a file may hold millions."""


def solve_file(engine: Engine, source: Path, out: Path, params: SelfRefineParams) -> int:
    """Refine the problems that have no result yet; returns how many it wrote."""
    answered = {result["line"] for result in read_lines(out)} if out.exists() else set()
    waiting = deque(
        (line, row["problem"])
        for line, row in enumerate(read_lines(source))
        if line not in answered
    )
    running: dict[Any, int] = {}  # request to line
    count = len(waiting)
    with out.open("a", encoding="utf-8") as results:

        def write(line: int, **fields: Any) -> None:
            results.write(json.dumps({"line": line, **fields}, ensure_ascii=False) + "\n")
            results.flush()

        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                line, problem = waiting.popleft()
                try:
                    request = engine.new_self_refine(problem, params, index=line)
                except InvalidRequest as error:  # this problem alone
                    write(line, answer=None, error=str(error))
                else:
                    engine.submit(request)
                    running[request] = line
            for request in engine.step():
                write(running.pop(request), **summary(request.result))
    return count


def summary(result: RefineResult) -> dict[str, Any]:
    """What of a result is worth a line; `result.candidates` and `.rounds` hold the rest."""
    tokens = sum(phase.tokens_computed for phase in result.usage.phases.values())
    return {
        "answer": result.answer,
        "text": result.text,
        "error": result.error,
        "tokens_computed": tokens,
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def main() -> None:
    """Two paths and a model from the command line."""
    source, out, *model = sys.argv[1:]
    with Engine.from_pretrained(model[0] if model else NANO) as engine:
        count = solve_file(engine, Path(source), Path(out), SelfRefineParams(k=4, seed=0))
    print(f"{count} results in {out}")


if __name__ == "__main__":
    main()
