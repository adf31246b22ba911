"""The puzzles and their exact solver."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gsr_engine.answers import find_answer
from gsr_engine.demo.puzzles import (
    ANSWER_PATTERN,
    BASE,
    HIGHEST_FACTOR,
    Mix,
    Puzzle,
    readable,
    sample_puzzles,
    stream_of,
)

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
    lines = readable(puzzle.solution).split("\n")[thinks:]
    assert len(lines) == len(puzzle.factors)
    for line, factor in zip(lines, puzzle.factors, strict=True):
        value = value * factor % BASE**size
        assert line == f"× {factor} → {in_base(value, size)}"
    assert find_answer(puzzle.solution, ANSWER_PATTERN) == puzzle.answer
    assert readable(puzzle.answer) == in_base(value, size)
    assert ("<think>" in puzzle.solution) == thinks == puzzle.size.endswith("+")


def in_base(value: int, size: int) -> str:
    return "".join(str(value // BASE**place % BASE) for place in reversed(range(size)))


def test_a_slip_is_wrong_where_it_happens_and_after() -> None:
    puzzle = Puzzle((3, 0, 2, 3), (4, 2))
    slipped = puzzle.trace(lambda carry, factor: min(carry + 1, factor - 1))
    assert readable(puzzle.trace()) == "× 4 → 2202\n× 2 → 4404"
    assert readable(slipped) == "× 4 → 3312\n× 2 → 2234"


def test_an_unfinished_or_malformed_solution_has_no_right_answer() -> None:
    puzzle = Puzzle((4, 0, 2, 3), (4, 3))
    first = puzzle.solution.split("\n")[0]
    assert find_answer(first, ANSWER_PATTERN) != puzzle.answer
    assert find_answer("", ANSWER_PATTERN) is None
    assert find_answer(puzzle.solution[:-1], ANSWER_PATTERN) != puzzle.answer


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
    mix = Mix(digits=(3, 5), factors=(2, 4), share_of_sums=0.5)
    puzzles = sample_puzzles("train", 0, 300, mix)
    sizes = {puzzle.size for puzzle in puzzles}
    assert sizes == {f"{d}x{f}{plus}" for d in (3, 5) for f in (2, 4) for plus in ("", "+")}
    assert all(stream_of(puzzle) == "train" for puzzle in puzzles)
    assert len({puzzle.problem for puzzle in puzzles}) == 300


def test_readable_drops_labels_only() -> None:
    puzzle = Puzzle((3, 0, 2, 3), (4, 2), ((3, 1), (1, 1)))
    assert readable(puzzle.problem) == "3023 × (3+1) × (1+1)"
    assert readable(puzzle.solution) == "<think>3+1=4;1+1=2</think>\n× 4 → 2202\n× 2 → 4404"
    assert readable(puzzle.answer) == "4404"
    assert not re.search("[₁₂₃₄]", readable(puzzle.solution))
