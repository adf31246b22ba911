"""Rows to train on: lengths like those of real rows, random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from train.rows import Row

Kind = Literal["direct", "linear", "branched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSizes:
    """Medians of lognormal lengths, in tokens.

    Attributes:
        problem, summary, target: of the three parts of a row.
        spread: standard deviation of the lengths' logarithms.
        k: summaries that a refinement row reads.
        longest: most tokens of a row; a longer one is drawn again.
    """

    problem: int
    summary: int
    target: int
    spread: float
    k: int
    longest: int


def random_rows(
    kinds: Sequence[Kind], sizes: RowSizes, vocab_size: int, seed: int = 0
) -> list[Row]:
    """One row of each kind that is named, in order."""
    rng, rows = np.random.default_rng(seed), []
    for kind in kinds:
        while len(row := _random_row(kind, sizes, vocab_size, rng)) > sizes.longest:
            pass
        rows.append(row)
    return rows


def _random_row(kind: Kind, sizes: RowSizes, vocab_size: int, rng: np.random.Generator) -> Row:
    def length(median: int) -> int:
        return 1 + int(median * rng.lognormal(0.0, sizes.spread))

    fork = length(sizes.problem)
    summaries = [length(sizes.summary) for _ in range(sizes.k)] if kind != "direct" else []
    # A refinement's prompt ends with an instruction that restates the problem.
    begin = fork + sum(summaries) + (fork if summaries else 0)
    ids = rng.integers(vocab_size, size=begin + length(sizes.target)).tolist()
    if kind == "branched":
        return Row("refine", ids, begin, fork, summaries, fork + max(summaries))
    return Row("direct" if kind == "direct" else "refine", ids, begin)
