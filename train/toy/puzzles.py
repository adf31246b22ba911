"""What nano learns from: solved puzzles with drafts; synthetic drafts first, then its own."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from gsr_engine import Engine
from gsr_engine.demo.puzzles import Puzzle
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.seeds import derive_seed
from train.command import log
from train.generation.drawer import DrawConfig
from train.generation.engine_drawer import EngineDrawer
from train.generation.questions import direct_prompts
from train.generation.store import Store
from train.generation.worker import generate
from train.problems import Problem
from train.samples import Sample, read_samples

MAX_TOKENS = 200
"""More than twice the longest solution."""


def puzzle_problems(puzzles: Sequence[Puzzle], name: str) -> list[Problem]:
    """Puzzles with their solutions, as problems called `name`-0, `name`-1, ..."""
    return [
        Problem(f"{name}-{index}", one.problem, one.answer, one.solution, source="solver")
        for index, one in enumerate(puzzles)
    ]


def slipped_draft(puzzle: Puzzle, rate: float, rng: random.Random) -> str:
    """A solution with some carries off by one; the rate doubles with every further factor."""

    def slip(line: int, carry: int) -> int:
        if rng.random() >= rate * 2**line:
            return carry
        return min(puzzle.factors[line] - 1, max(0, carry + rng.choice((-1, 1))))

    return puzzle.trace(slip)


def slipped_samples(
    puzzles: Sequence[Puzzle], problems: Sequence[Problem], highest_rate: float, seed: int
) -> Callable[[str], list[Sample]]:
    """Four drafts of each puzzle by a solver that slips; each puzzle has its own rate."""
    by_id = {problem.id: puzzle for problem, puzzle in zip(problems, puzzles, strict=True)}

    def drafts(problem_id: str) -> list[Sample]:
        rng = random.Random(derive_seed(seed, *problem_id.encode()))
        rate = rng.uniform(0.0, highest_rate)
        texts = [slipped_draft(by_id[problem_id], rate, rng) for _ in range(4)]
        return [Sample(id=problem_id, index=i, text=text) for i, text in enumerate(texts)]

    return drafts


def draw_own(
    engine: Engine,
    problems: Sequence[Problem],
    candidates: int,
    folder: Path,
    name: str,
    seed: int,
    tokenizer: str,
) -> Callable[[str], list[Sample]]:
    """Draw the model's own candidates at temperature 1; they are kept in a store at `folder`.

    `tokenizer` is the digest of the engine's tokenizer.
    """
    start = time.perf_counter()
    config = DrawConfig(
        model=name,
        template=engine.gsr.template.hash,
        tokenizer=tokenizer,
        max_tokens=MAX_TOKENS,
        seed=seed,
    )
    store = Store(folder, config, direct_prompts(problems), candidates)
    tally = generate(store, EngineDrawer(engine, config), ExactGrader())
    by_problem: defaultdict[str, list[Sample]] = defaultdict(list)
    right = 0
    for record in read_samples(folder):
        by_problem[record["id"]].append(Sample.from_record(record))
        right += record["correct"]
    share = right / (len(problems) * candidates)
    seconds = time.perf_counter() - start
    log.info(
        f"{name}: {len(problems)} puzzles x {candidates} candidates, pass@1 {share:.3f}, "
        f"{tally.samples} drawn in {seconds:.0f} s"
    )
    return by_problem.__getitem__
