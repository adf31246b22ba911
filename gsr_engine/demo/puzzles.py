"""The puzzles of the demo: chains of multiplications, written most significant digit first.

A number of several digits is multiplied by one digit after another; every line keeps as many
digits as the number has (the product modulo 10^digits). Writing the leftmost digit first needs a
carry from all digits to its right, none of which is written yet: solving directly is guessing
ahead, while a draft, even a wrong one, shows what stands to the right. That is the gap between
generating and verifying which refinement can use.

    problem     d4c0b7a3×₁8×₂3                     4073, times 8, times 3; a = units, b = tens, ...
    solution    ×₁8d₁d₁2c₁c₁5b₁b₁8a₁a₁4            4073 · 8 = 32584 -> 2584
                ×₂3d₂d₂7c₂c₂7b₂b₂5a₂a₂2            2584 · 3 =  7752 -> 7752

In a solution each digit follows its label, place and line ("d₁"), and is itself written with it
("d₁2"), so that a token says where it belongs. In the second form of the puzzle the factors are
given as sums, `×₁(5+3)`, and a solution first works them out between <think> and </think>.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import Literal

PLACES = "abcdefghij"
LINES = "₁₂₃₄"
ANSWER_PATTERN = r"×[₁-₄]\d([^×\n]+)$"
"""Finds the final answer: the digits of the last line, with their labels."""

Stream = Literal["train", "validation", "test"]
_BUCKETS = 16


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A number (digits, most significant first) and its factors, plain or as sums."""

    digits: tuple[int, ...]
    factors: tuple[int, ...]
    sums: tuple[tuple[int, int], ...] | None = None

    @property
    def problem(self) -> str:
        """The problem's text."""
        places = PLACES[: len(self.digits)][::-1]
        number = "".join(
            f"{place}{digit}" for place, digit in zip(places, self.digits, strict=True)
        )
        if self.sums is None:
            written = [str(factor) for factor in self.factors]
        else:
            written = [f"({left}+{right})" for left, right in self.sums]
        return number + "".join(
            f"×{line}{factor}" for line, factor in zip(LINES, written, strict=False)
        )

    @property
    def solution(self) -> str:
        """The exact solution: thinking where the factors are sums, then one line per factor."""
        lines = [
            f"×{line}{factor}{_cells(digits, line)}"
            for line, factor, digits in zip(LINES, self.factors, self._products(), strict=False)
        ]
        thinking = ""
        if self.sums is not None:
            steps = [f"{left}+{right}={left + right}" for left, right in self.sums]
            thinking = f"<think>{';'.join(steps)}</think>"
        return thinking + "\n".join(lines)

    @property
    def answer(self) -> str:
        """The last line's digits as `ANSWER_PATTERN` finds them."""
        return _cells(self._products()[-1], LINES[len(self.factors) - 1])

    @property
    def size(self) -> str:
        """Digits x factors, "+" where it thinks: what results are grouped by."""
        return f"{len(self.digits)}x{len(self.factors)}{'' if self.sums is None else '+'}"

    def _products(self) -> list[tuple[int, ...]]:
        modulus, value = 10 ** len(self.digits), int("".join(map(str, self.digits)))
        products = []
        for factor in self.factors:
            value = value * factor % modulus
            products.append(tuple(map(int, str(value).zfill(len(self.digits)))))
        return products


def _cells(digits: tuple[int, ...], line: str) -> str:
    places = PLACES[: len(digits)][::-1]
    return "".join(
        f"{place}{line}{place}{line}{digit}" for place, digit in zip(places, digits, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Mix:
    """The distribution that puzzles are drawn from: sizes evenly, a share of them as sums."""

    digits: tuple[int, ...] = (5, 6, 7, 8)
    factors: tuple[int, ...] = (2, 3, 4)
    share_of_sums: float = 0.3


def sample_puzzles(stream: Stream, seed: int, count: int, mix: Mix | None = None) -> list[Puzzle]:
    """Distinct puzzles of a stream.

    The streams share no puzzle whatever the seeds: a hash of its number and factors decides which
    stream a puzzle belongs to.
    """
    rng, mix = random.Random(f"{stream} {seed}"), mix or Mix()
    puzzles: dict[tuple[tuple[int, ...], tuple[int, ...]], Puzzle] = {}
    while len(puzzles) < count:
        puzzle = _draw(rng, mix)
        if stream_of(puzzle) == stream:
            puzzles.setdefault((puzzle.digits, puzzle.factors), puzzle)
    return list(puzzles.values())


def stream_of(puzzle: Puzzle) -> Stream:
    """The stream that a puzzle belongs to."""
    text = f"{puzzle.digits}{puzzle.factors}"
    bucket = hashlib.sha256(text.encode()).digest()[0] % _BUCKETS
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _draw(rng: random.Random, mix: Mix) -> Puzzle:
    size = rng.choice(mix.digits)
    digits = (rng.randint(1, 9), *(rng.randint(0, 9) for _ in range(size - 1)))
    factors = tuple(rng.randint(2, 9) for _ in range(rng.choice(mix.factors)))
    if rng.random() >= mix.share_of_sums:
        return Puzzle(digits, factors)
    lefts = [rng.randint(1, factor - 1) for factor in factors]
    sums = tuple((left, factor - left) for left, factor in zip(lefts, factors, strict=True))
    return Puzzle(digits, factors, sums)


_CELL = re.compile(rf"[{PLACES}][{LINES}]?(?=\d)")
_LABEL = re.compile(rf"[{PLACES}][{LINES}]")


def readable(text: str) -> str:
    """A problem, solution or answer without its labels, one line per factor."""
    plain = _LABEL.sub("", _CELL.sub("", text)).replace("</think>", "</think>\n")
    plain = re.sub(rf"×[{LINES}]", " × ", plain)
    lines = [line.strip() for line in plain.split("\n")]
    return "\n".join(re.sub(r"^(× \d) ?(\d)", r"\1 → \2", line) for line in lines)
