"""The puzzles of the demo: chains of multiplications, written most significant digit first.

A number of several digits is multiplied by one digit after another; every line keeps as many
digits as the number has (the product modulo base^digits). Each digit is written behind the carry
that comes into it, and the leftmost first: that carry depends on all digits to the right, none of
which is written yet. Solving directly is guessing ahead, while a draft, even a wrong one, shows
what stands to the right. That is the gap between generating and verifying which refinement uses.

    problem     e0d3c0b2a3×₁4×₂2               3023 (base 5), times 4, times 2
    solution    ×₁4e₁0d₁⁰d₁2c₁²c₁2b₁²b₁0a₁⁰a₁2   3023 · 4 = 22202, kept: 2202
                ×₂2e₂0d₂⁰d₂4c₂⁰c₂4b₂⁰b₂0a₂⁰a₂4   2202 · 2 =  4404

Every token of a solution says where it belongs: "d₁2" is a 2 in place d (a = units, b = the next,
...) of line 1, "d₁⁰" the carry into that place; a line opens with a 0 above its highest place. In
the second form of the puzzle the factors are given as sums, `×₁(3+1)`, and a solution first works
them out between <think> and </think>.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BASE = 5
PLACES = "abcdefghijk"
LINES = "₁₂₃₄"
CARRIES = "⁰¹²³⁴⁵"
HIGHEST_FACTOR = len(CARRIES)
"""A carry is below its factor, so this many signs are enough."""
ANSWER_PATTERN = r"×[₁-₄]\d([^×\n]+)$"
"""Finds the final answer: the last line behind its factor."""

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
        if self.sums is None:
            written = [str(factor) for factor in self.factors]
        else:
            written = [f"({left}+{right})" for left, right in self.sums]
        factors = zip(LINES, written, strict=False)
        return _cells(self.digits, "") + "".join(f"×{line}{factor}" for line, factor in factors)

    @property
    def solution(self) -> str:
        """The exact solution: thinking where the factors are sums, then one line per factor."""
        return self.thinking + self.trace()

    @property
    def thinking(self) -> str:
        """The sums worked out, between its tags; empty where the factors are plain."""
        if self.sums is None:
            return ""
        steps = [f"{left}+{right}={left + right}" for left, right in self.sums]
        return f"<think>{';'.join(steps)}</think>"

    def trace(self, slip: Callable[[int, int], int] = lambda carry, _: carry) -> str:
        """The lines of a solution.

        `slip(carry, factor)` may return another carry than the right one: the digit behind it is
        then as wrong, and so is what later lines make of it.
        """
        digits, lines = self.digits, []
        for line, factor in zip(LINES, self.factors, strict=False):
            carry, carries, products = 0, list[int](), list[int]()
            for digit in reversed(digits):
                carries.append(slip(carry, factor) if products else 0)
                products.append((digit * factor + carries[-1]) % BASE)
                carry = (digit * factor + carry) // BASE
            digits = tuple(reversed(products))
            written = _cells(digits, line, tuple(reversed(carries)))
            lines.append(f"×{line}{factor}{written}")
        return "\n".join(lines)

    @property
    def answer(self) -> str:
        """The last line as `ANSWER_PATTERN` finds it."""
        last = self.trace().rpartition("×")[2]
        return last[2:]

    @property
    def size(self) -> str:
        """Digits x factors, "+" where it thinks: what results are grouped by."""
        return f"{len(self.digits)}x{len(self.factors)}{'' if self.sums is None else '+'}"


def _cells(digits: tuple[int, ...], line: str, carries: tuple[int, ...] | None = None) -> str:
    top, *places = reversed(PLACES[: len(digits) + 1])
    text = f"{top}{line}0"
    for index, (place, digit) in enumerate(zip(places, digits, strict=True)):
        carry = "" if carries is None else f"{place}{line}{CARRIES[carries[index]]}"
        text += f"{carry}{place}{line}{digit}"
    return text


@dataclass(frozen=True, slots=True)
class Mix:
    """The distribution that puzzles are drawn from: sizes evenly, a share of them as sums."""

    digits: tuple[int, ...] = (7, 8, 9, 10)
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
    digits = (rng.randrange(1, BASE), *(rng.randrange(BASE) for _ in range(size - 1)))
    factors = tuple(rng.randint(2, HIGHEST_FACTOR) for _ in range(rng.choice(mix.factors)))
    if rng.random() >= mix.share_of_sums:
        return Puzzle(digits, factors)
    lefts = [rng.randint(1, factor - 1) for factor in factors]
    sums = tuple((left, factor - left) for left, factor in zip(lefts, factors, strict=True))
    return Puzzle(digits, factors, sums)


_GUARD = re.compile(rf"(^|×[{LINES}]\d)[{PLACES}][{LINES}]?0", re.MULTILINE)
_CARRY = re.compile(rf"[{PLACES}][{LINES}][{CARRIES}]")
_CELL = re.compile(rf"[{PLACES}][{LINES}]?(?=\d)")


def readable(text: str) -> str:
    """A problem, solution or answer without labels and carries, one line per factor."""
    text = _CELL.sub("", _CARRY.sub("", _GUARD.sub(r"\1 ", text.replace("</think>", "</think>\n"))))
    text = re.sub(rf"×[{LINES}]", " × ", text)
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(re.sub(r"^(× \d) (?=\d)", r"\1 → ", line) for line in lines)
