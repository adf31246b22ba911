"""What nano learns from: solved puzzles with drafts, synthetic ones first, then its own."""

from __future__ import annotations

import random
from collections.abc import Sequence

from gsr_engine import Engine, SamplingParams
from gsr_engine.demo.puzzles import Puzzle
from gsr_engine.prompts import Prompts
from gsr_engine.tokenizer import Tokenizer
from train.data import Record


def slipped_draft(puzzle: Puzzle, rate: float, rng: random.Random) -> str:
    """A solution in which carries are off by one, twice as often with every further factor."""

    def slip(line: int, carry: int) -> int:
        if rng.random() >= rate * 2**line:
            return carry
        return min(puzzle.factors[line] - 1, max(0, carry + rng.choice((-1, 1))))

    return puzzle.trace(slip)


def synthetic_records(
    puzzles: Sequence[Puzzle],
    tokenizer: Tokenizer,
    prompts: Prompts,
    drafts: int,
    highest_rate: float,
    seed: int,
) -> list[Record]:
    """Solved puzzles with drafts of a solver that slips, each puzzle at a rate of its own."""
    rng = random.Random(seed)
    records = []
    for puzzle in puzzles:
        rate = rng.uniform(0.0, highest_rate)
        texts = [slipped_draft(puzzle, rate, rng) for _ in range(drafts)]
        records.append(
            _record(puzzle, [tokenizer.encode_text(t) for t in texts], tokenizer, prompts)
        )
    return records


def own_records(
    engine: Engine, puzzles: Sequence[Puzzle], candidates: int, seed: int
) -> tuple[list[Record], list[list[bool]]]:
    """Solved puzzles with the model's own candidates at temperature 1, and which are right.

    Candidates enter as their summaries; one that has none is left out.
    """
    tokenizer, prompts = engine.tokenizer, engine.prompts
    params = SamplingParams(n=candidates, temperature=1.0, max_tokens=200, seed=seed)
    results = engine.generate([engine.direct_prompt(p.problem) for p in puzzles], params)
    records, right = [], []
    for puzzle, result in zip(puzzles, results, strict=True):
        ids = [completion.content_ids for completion in result.completions]
        summaries = [prompts.summary(one, 1000) for one in ids]
        shown = [summary.token_ids for summary in summaries if summary]
        records.append(_record(puzzle, shown, tokenizer, prompts))
        right.append([engine.find_answer(c) == puzzle.answer for c in result.completions])
    return records, right


def _record(
    puzzle: Puzzle, summaries: list[list[int]], tokenizer: Tokenizer, prompts: Prompts
) -> Record:
    target = [*tokenizer.encode_text(puzzle.solution), tokenizer.end_id]
    return Record(prompts.problem(puzzle.problem), target, summaries)
