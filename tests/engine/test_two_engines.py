"""One engine writes the candidates, another one refines them: one rule each, on nano."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO

PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("validation", 5, 50)]
PROBLEM = PROBLEMS[0]
THINKING = next(problem for problem in PROBLEMS if "+" in problem)  # nano adds up before it writes
PARAMS = SelfRefineParams(k=2, seed=3, candidate=SamplingParams(max_tokens=200))


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[Engine, Engine]]:
    with Engine.from_pretrained(NANO) as writer, Engine.from_pretrained(NANO) as refiner:
        yield writer, refiner
        assert writer.stats()["pages_used"] == refiner.stats()["pages_used"] == 0


def test_the_writer_writes_and_the_refiner_refines(engines: tuple[Engine, Engine]) -> None:
    writer, refiner = engines
    (result,) = writer.self_refine([PROBLEM], PARAMS, refiner=refiner)
    assert [c.index for c in result.candidates] == [0, 1]
    assert result.refinement
    assert "candidate_decode" in writer.stats()["phases"]
    assert "candidate_decode" not in refiner.stats()["phases"]
    assert refiner.stats()["phases"]["refine_decode"]["tokens_computed"] > 0


def test_usage_is_that_of_both(engines: tuple[Engine, Engine]) -> None:
    writer, refiner = engines
    (result,) = writer.self_refine([PROBLEM], PARAMS, refiner=refiner)
    tokens = [len(c.token_ids) for c in (*result.candidates, result.refinement) if c]
    assert result.usage.completion_tokens == sum(tokens)


def test_what_needs_the_candidates_in_one_loop_is_refused(engines: tuple[Engine, Engine]) -> None:
    writer, refiner = engines
    asked = SelfRefineParams(k=2, order="as_finished")
    with pytest.raises(InvalidRequest, match="order: is not possible with another engine"):
        writer.self_refine([PROBLEM], asked, refiner=refiner)


def test_candidates_that_never_end_their_thinking_are_absent(
    engines: tuple[Engine, Engine],
) -> None:
    writer, refiner = engines
    asked = SelfRefineParams(k=2, seed=3, candidate=SamplingParams(max_tokens=3))
    (result,) = writer.self_refine([THINKING], asked, refiner=refiner)
    assert result.error == "0 of 2 candidates are usable, min_candidates is 1"
    assert result.refinement is None
    assert [c.text for c in result.candidates] == ["<think>2"] * 2


def test_a_conversation_is_refined_elsewhere(engines: tuple[Engine, Engine]) -> None:
    """Both engines are told what came before the problem."""
    writer, refiner = engines
    user = {"role": "user", "content": PROBLEM}
    (alone,) = writer.self_refine([[user]], PARAMS, refiner=refiner)
    (text,) = writer.self_refine([PROBLEM], PARAMS, refiner=refiner)
    assert [c.token_ids for c in alone.candidates] == [c.token_ids for c in text.candidates]
    talk = [{"role": "user", "content": "1 * 1"}, {"role": "assistant", "content": "1"}, user]
    (behind,) = writer.self_refine([talk], PARAMS, refiner=refiner)
    assert behind.usage.prompt_tokens > text.usage.prompt_tokens
