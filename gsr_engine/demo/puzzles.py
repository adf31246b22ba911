"""The puzzles of the demo: a number times one factor after another, written column by column.

A number of several digits is multiplied by one factor after another. Every product keeps as many
digits as the number has: it is taken modulo base^digits. A solution goes through the places of the
number, the highest first. For each place it writes the number's digit and then, for every factor,
the carry into the place and the product's digit.

    problem     d3c0b2a3×₁4×₂2                    3023 (base 5), times 4, times 2
    solution    ×₁4×₂2
                d3d₁⁰d₁2d₂⁰d₂4 c0c₁²c₁2c₂⁰c₂4     3023 · 4 = 22202, kept: 2202
                b2b₁²b₁0b₂⁰b₂0 a3a₁⁰a₁2a₂⁰a₂4     2202 · 2 =  4404
                =d₂4c₂4b₂0a₂4                     (the blanks are not written)

The carry into a place depends on all places to its right, and none of them is written yet. For the
second factor it depends on products that are not written either, for the third on products of
products. So solving directly means guessing ahead, and gets harder with every factor. Checking is
equally easy for all factors: with a draft, even a wrong one, a carry follows from three tokens of
the next column. Refinement uses this gap between generating and verifying.

Every token names its place: "d₁2" is a 2 in place d (a = units, b = the next, ...) of the first
product, "d₁⁰" the carry into that place. In the second form of the puzzle the factors are sums,
`×₁(3+1)`, and a solution first computes them between <think> and </think>.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

BASE = 5
PLACES = "abcdefghij"
LINES = "₁₂₃₄"
CARRIES = "⁰¹²³"
HIGHEST_FACTOR = len(CARRIES)
"""The largest factor: a carry is below its factor, so there is a sign for every carry."""
ANSWER_PATTERN = rf"=((?:[{PLACES}][{LINES}]\d)+)$"
"""Finds the final answer: the last product, after the columns."""

PuzzleStream = Literal["train", "validation", "test"]
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
        places = reversed(PLACES[: len(self.digits)])
        number = "".join(
            f"{place}{digit}" for place, digit in zip(places, self.digits, strict=True)
        )
        if self.sums is None:
            return number + self._written([str(factor) for factor in self.factors])
        return number + self._written([f"({left}+{right})" for left, right in self.sums])

    @property
    def solution(self) -> str:
        """The exact solution: thinking if the factors are sums, then the columns and the answer."""
        return self.thinking + self.trace()

    @property
    def thinking(self) -> str:
        """The computed sums between their tags; empty if the factors are plain."""
        if self.sums is None:
            return ""
        steps = [f"{left}+{right}={left + right}" for left, right in self.sums]
        return f"<think>{';'.join(steps)}</think>"

    def carries(self) -> list[list[int]]:
        """For every factor the carry into each place, the highest place first."""
        digits, carries = list(self.digits), []
        for factor in self.factors:
            carry, into = 0, list[int]()
            for place in reversed(range(len(digits))):
                into.append(carry)
                carry, digits[place] = divmod(digits[place] * factor + carry, BASE)
            carries.append(into[::-1])
        return carries

    def trace(self, slip: Callable[[int, int], int] = lambda line, carry: carry) -> str:
        """The factors, the columns and the answer.

        `slip(line, carry)` may return a wrong carry; line 0 is the first factor's. Then the digits
        after it in the same column, down to the last product, are wrong as well. Other columns are
        not affected, because a model that guesses ahead guesses every column independently.
        """
        carries, columns, answer = self.carries(), "", ""
        for index, digit in enumerate(self.digits):
            place = PLACES[len(self.digits) - 1 - index]
            columns += f"{place}{digit}"
            for line, factor in enumerate(self.factors):
                carry = slip(line, carries[line][index])
                digit = (digit * factor + carry) % BASE
                columns += f"{place}{LINES[line]}{CARRIES[carry]}{place}{LINES[line]}{digit}"
            answer += f"{place}{LINES[len(self.factors) - 1]}{digit}"
        return f"{self._written([str(factor) for factor in self.factors])}{columns}={answer}"

    @staticmethod
    def _written(factors: list[str]) -> str:
        return "".join(f"×{line}{factor}" for line, factor in zip(LINES, factors, strict=False))

    @property
    def answer(self) -> str:
        """The last product as `ANSWER_PATTERN` finds it."""
        return self.trace().rpartition("=")[2]

    @property
    def size(self) -> str:
        """Digits x factors, with a "+" if the factors are sums; results are grouped by it."""
        return f"{len(self.digits)}x{len(self.factors)}{'' if self.sums is None else '+'}"


@dataclass(frozen=True, slots=True)
class Mix:
    """The distribution of puzzles: all sizes are equally likely, a share has sums as factors.

    Attributes:
        digits: the possible numbers of digits.
        factors: the possible numbers of factors.
        products: least and largest product of the factors, which makes guessing hard.
        share_of_sums: share of the puzzles whose factors are sums.
    """

    digits: tuple[int, ...] = (6, 7, 8, 9, 10)
    factors: tuple[int, ...] = (2, 3)
    products: tuple[int, int] = (6, 12)
    share_of_sums: float = 0.3

    def __post_init__(self) -> None:
        """Raise ValueError if some number of factors has no product within `products`."""
        least, largest = self.products
        for count in self.factors:
            choices = itertools.product(range(2, HIGHEST_FACTOR + 1), repeat=count)
            if not any(least <= math.prod(factors) <= largest for factors in choices):
                raise ValueError(f"no {count} factors have a product within {self.products}")

    def holds(self, puzzle: Puzzle) -> bool:
        """Whether it may draw such a puzzle."""
        least, largest = self.products
        form = self.share_of_sums < 1 if puzzle.sums is None else self.share_of_sums > 0
        return (
            form
            and len(puzzle.digits) in self.digits
            and len(puzzle.factors) in self.factors
            and least <= math.prod(puzzle.factors) <= largest
        )


def sample_puzzles(
    stream: PuzzleStream, seed: int, count: int, mix: Mix | None = None
) -> list[Puzzle]:
    """Distinct puzzles of a stream.

    Different streams share no puzzle, for any seeds: a hash of its number and factors decides
    to which stream a puzzle belongs.
    """
    rng, mix = random.Random(f"{stream} {seed}"), mix or Mix()
    puzzles: dict[tuple[tuple[int, ...], tuple[int, ...]], Puzzle] = {}
    while len(puzzles) < count:
        puzzle = _draw(rng, mix)
        if stream_of(puzzle) == stream:
            puzzles.setdefault((puzzle.digits, puzzle.factors), puzzle)
    return list(puzzles.values())


def stream_of(puzzle: Puzzle) -> PuzzleStream:
    """The stream that a puzzle belongs to."""
    text = f"{puzzle.digits}{puzzle.factors}"
    bucket = hashlib.sha256(text.encode()).digest()[0] % _BUCKETS
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _draw(rng: random.Random, mix: Mix) -> Puzzle:
    size = rng.choice(mix.digits)
    digits = (rng.randrange(1, BASE), *(rng.randrange(BASE) for _ in range(size - 1)))
    count, factors = rng.choice(mix.factors), tuple[int, ...]()
    least, largest = mix.products
    while not least <= math.prod(factors) <= largest:
        factors = tuple(rng.randint(2, HIGHEST_FACTOR) for _ in range(count))
    if rng.random() >= mix.share_of_sums:
        return Puzzle(digits, factors)
    lefts = [rng.randint(1, factor - 1) for factor in factors]
    sums = tuple((left, factor - left) for left, factor in zip(lefts, factors, strict=True))
    return Puzzle(digits, factors, sums)


_FACTOR = re.compile(rf"×([{LINES}])(\d|\([^)]*\)?)")
_CELL = re.compile(rf"[{PLACES}]([{LINES}]?)(\d)")


def readable(text: str) -> str:
    """A problem, solution or answer, complete or not, as people write it: one line per product."""
    thinking, tag, rest = text.rpartition("</think>")
    if not tag and text.startswith("<think>"):
        return text  # it still thinks
    body, _, answer = rest.partition("=")
    factors = _FACTOR.findall(body)
    digits: dict[str, str] = {}
    for line, digit in _CELL.findall(_FACTOR.sub("", body)):
        digits[line] = digits.get(line, "") + digit
    if not body.startswith("×"):  # a problem, or an answer
        return " × ".join([*digits.values(), *(factor for _, factor in factors)])
    lines = [f"× {factor} → {digits.get(line, '')}" for line, factor in factors]
    if answer:
        lines.append("= " + "".join(digit for _, digit in _CELL.findall(answer)))
    return "\n".join([thinking + tag, *lines] if tag else lines)
