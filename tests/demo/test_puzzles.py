"""The puzzles and their exact solver."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine.demo.puzzles import (
    ANSWER_PATTERN,
    BASE,
    HIGHEST_FACTOR,
    LINES,
    Mix,
    Puzzle,
    readable,
    sample_puzzles,
    stream_of,
)
from gsr_engine.text.answers import find_answer

PUZZLES = st.builds(
    Puzzle,
    digits=st.lists(st.integers(0, BASE - 1), min_size=1, max_size=10).map(tuple),
    factors=st.lists(st.integers(2, HIGHEST_FACTOR), min_size=1, max_size=4).map(tuple),
)


@given(puzzle=PUZZLES, thinks=st.booleans())
def test_the_solution_is_the_arithmetic(puzzle: Puzzle, thinks: bool) -> None:
    if thinks:
        sums = tuple((1, factor - 1) for factor in puzzle.factors)
        puzzle = Puzzle(puzzle.digits, puzzle.factors, sums)
    value = int("".join(map(str, puzzle.digits)), BASE)
    size = len(puzzle.digits)
    *lines, last = readable(puzzle.solution).split("\n")[thinks:]
    assert len(lines) == len(puzzle.factors)
    for line, factor in zip(lines, puzzle.factors, strict=True):
        value = value * factor % BASE**size
        assert line == f"× {factor} → {in_base(value, size)}"
    assert find_answer(puzzle.solution, ANSWER_PATTERN) == puzzle.answer
    assert readable(puzzle.answer) == in_base(value, size) == last.removeprefix("= ")
    assert ("<think>" in puzzle.solution) == thinks == puzzle.size.endswith("+")


def in_base(value: int, size: int) -> str:
    return "".join(str(value // BASE**place % BASE) for place in reversed(range(size)))


@given(puzzle=PUZZLES)
def test_a_carry_follows_from_the_next_column(puzzle: Puzzle) -> None:
    """What makes checking easy: digit, carry and factor of the next place, nothing else."""
    carries = puzzle.carries()
    digits = list(puzzle.digits)
    for into, factor in zip(carries, puzzle.factors, strict=True):
        for place in range(len(digits) - 1):
            assert into[place] == (digits[place + 1] * factor + into[place + 1]) // BASE
        assert into[-1] == 0
        digits = [(d * factor + c) % BASE for d, c in zip(digits, into, strict=True)]


def test_a_slip_is_wrong_in_its_column_and_nowhere_else() -> None:
    puzzle = Puzzle((3, 0, 2, 3), (4, 2))
    assert readable(puzzle.trace()) == "× 4 → 2202\n× 2 → 4404\n= 4404"
    first = puzzle.trace(lambda line, carry: carry + 1 if (line, carry) == (0, 2) else carry)
    assert readable(first) == "× 4 → 2312\n× 2 → 4124\n= 4124"
    second = puzzle.trace(lambda line, carry: 1 - carry if line else carry)
    assert readable(second) == "× 4 → 2202\n× 2 → 0010\n= 0010"


def test_an_unfinished_or_malformed_solution_has_no_right_answer() -> None:
    puzzle = Puzzle((4, 0, 2, 3), (4, 3))
    for text in ("", puzzle.solution.partition("=")[0], puzzle.solution[:-1]):
        assert find_answer(text, ANSWER_PATTERN) != puzzle.answer
    for length in range(len(puzzle.solution)):
        assert readable(puzzle.solution[:length]) is not None  # the demo shows what is begun
    thinking = Puzzle((4, 0), (2,), ((1, 1),)).thinking
    assert find_answer(thinking, ANSWER_PATTERN) is None


def test_streams_share_no_puzzle_and_seeds_repeat() -> None:
    drawn = {
        stream: {
            (p.digits, p.factors) for seed in (0, 1) for p in sample_puzzles(stream, seed, 400)
        }
        for stream in ("train", "validation", "test")
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["train"] & drawn["validation"]
    assert not drawn["validation"] & drawn["test"]
    assert sample_puzzles("test", 5, 50) == sample_puzzles("test", 5, 50)
    assert sample_puzzles("test", 5, 50) != sample_puzzles("test", 6, 50)


def test_sizes_vary_within_the_mix() -> None:
    mix = Mix(digits=(3, 5), factors=(2, 4), products=(4, 40), share_of_sums=0.5)
    puzzles = sample_puzzles("train", 0, 300, mix)
    sizes = {puzzle.size for puzzle in puzzles}
    assert sizes == {f"{d}x{f}{plus}" for d in (3, 5) for f in (2, 4) for plus in ("", "+")}
    assert all(stream_of(puzzle) == "train" for puzzle in puzzles)
    assert all(4 <= math.prod(puzzle.factors) <= 40 for puzzle in puzzles)
    with pytest.raises(ValueError, match="no 4 factors"):
        Mix(factors=(2, 4))
    assert len({puzzle.problem for puzzle in puzzles}) == 300


def test_readable_drops_labels_only() -> None:
    puzzle = Puzzle((3, 0, 2, 3), (4, 2), ((3, 1), (1, 1)))
    assert readable(puzzle.problem) == "3023 × (3+1) × (1+1)"
    thought = "<think>3+1=4;1+1=2</think>"
    assert readable(puzzle.solution) == f"{thought}\n× 4 → 2202\n× 2 → 4404\n= 4404"
    assert readable(puzzle.answer) == "4404"
    assert not re.search(f"[{LINES}]", readable(puzzle.solution))
