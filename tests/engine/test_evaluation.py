"""One evaluation of a set: what is drawn, voted for, refined and graded, on problems by hand."""

from __future__ import annotations

import pytest

from gsr_engine import Completion, Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.evaluation.evaluator import Attempt, Evaluator, Exercise, vote
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import LAYOUTS

pytestmark = pytest.mark.slow

PUZZLES = sample_puzzles("validation", 5, 6)
EXERCISES = [Exercise(puzzle.problem, puzzle.answer) for puzzle in PUZZLES]
SHORT = SamplingParams(max_tokens=100)
GREEDY = SamplingParams(max_tokens=100, temperature=0.0)


class StubGrader:
    """Notes what it is asked; an answer is right if there is one and the gold answer is "yes"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []

    def correct(self, answer: str | None, gold: str) -> bool:
        self.asked.append((answer, gold))
        return answer is not None and gold == "yes"


@pytest.fixture(scope="module")
def engine():
    with Engine.from_pretrained(NANO, dtype="float32") as one:
        yield one


def attempt(index: int, answer: str | None, gold: str) -> Attempt:
    completion = Completion(index, str(answer), [7], [-1.0], "stop", 1)
    return Attempt(completion, answer, ExactGrader().correct(answer, gold))


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2"], 1),
        (["1", "2", r"\dfrac{4}{2}"], 1),  # equal after normalisation
        (["3", "2"], 0),  # the first of a tie
        ([None, None, "2"], 2),
        ([None, None], None),
    ],
)
def test_the_vote(answers: list[str | None], winner: int | None) -> None:
    attempts = [attempt(index, answer, "2") for index, answer in enumerate(answers)]
    won = vote(attempts)
    assert (won.completion.index if won else None) == winner


def test_exact_grades() -> None:
    grader = ExactGrader()
    assert grader.correct("0.5", r"\frac{1}{2}")
    assert not grader.correct(r"\sum_{k=1}^3 k", "6")  # that takes math-verify
    assert not grader.correct(None, "1")


def test_attempts_are_the_engines_own_draws_each_beside_its_gold_answer(engine: Engine) -> None:
    params = SamplingParams(n=3, max_tokens=100, seed=4)
    grader = StubGrader()
    exercises = [Exercise(EXERCISES[0].text, "yes"), Exercise(EXERCISES[1].text, "no")]
    drawn = Evaluator(engine, exercises, grader).draw(params)
    prompts = [engine.direct_prompt(exercise.text) for exercise in exercises]
    alone = engine.generate(prompts, params)
    assert [[one.completion for one in attempts] for attempts in drawn] == [
        result.completions for result in alone
    ]
    assert grader.asked == [
        (engine.find_answer(completion), exercise.gold)
        for exercise, result in zip(exercises, alone, strict=True)
        for completion in result.completions
    ]
    assert [one.correct for one in drawn[0]] == [one.answer is not None for one in drawn[0]]
    assert not any(one.correct for one in drawn[1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_generated_candidates_are_graded_beside_the_refinement(engine: Engine, layout) -> None:
    params = SelfRefineParams(k=3, layout=layout, seed=4, candidate=SHORT, refine=GREEDY)
    finished: list[int] = []
    run = Evaluator(engine, EXERCISES, ExactGrader()).refine(params, on_finished=finished.append)
    alone = engine.self_refine([exercise.text for exercise in EXERCISES], params)
    for refined, result, exercise in zip(run.refined, alone, EXERCISES, strict=True):
        assert refined.result.candidates == result.candidates
        assert refined.result.refinement == result.refinement
        assert refined.correct == (result.answer == exercise.gold)
        right = [engine.find_answer(one) == exercise.gold for one in result.candidates]
        assert [one.correct for one in refined.candidates] == right
        assert refined.num_correct == sum(right)
    assert any(refined.correct for refined in run.refined)
    assert any(not one.correct for refined in run.refined for one in refined.candidates)
    assert sum(finished) == len(EXERCISES)
    computed = sum(phase.tokens_computed for phase in run.usage.phases.values())
    assert computed > 0
    tokens = sum(result.usage.completion_tokens for result in alone)
    assert run.usage.completion_tokens == tokens
    assert run.seconds > 0


def test_a_majority_counts_if_its_answer_is_right(engine: Engine) -> None:
    """Over many sets of candidates: as voting by hand, right ones and wrong ones among them."""
    params = SelfRefineParams(k=3, layout="linear", seed=1, candidate=SHORT, refine=GREEDY)
    run = Evaluator(engine, EXERCISES, ExactGrader()).refine(params)
    by_hand = []
    for refined, exercise in zip(run.refined, EXERCISES, strict=True):
        answers = [one.answer for one in refined.candidates if one.answer is not None]
        counts = {answer: answers.count(answer) for answer in answers}
        by_hand.append(bool(counts) and max(counts, key=lambda a: counts[a]) == exercise.gold)
    assert [refined.majority_correct for refined in run.refined] == by_hand
    assert set(by_hand) == {True, False}


def test_given_candidates_are_refined_as_they_are_and_not_graded(engine: Engine) -> None:
    grader = StubGrader()
    given = [
        [engine.tokenizer.encode_text(puzzle.solution)] * count
        for puzzle, count in zip(PUZZLES[:2], (1, 2), strict=True)
    ]
    params = SelfRefineParams(k=4, layout="linear", seed=0, refine=GREEDY)
    run = Evaluator(engine, EXERCISES[:2], grader).refine(params, given)
    assert [refined.result.k_effective for refined in run.refined] == [1, 2]
    assert [len(refined.candidates) for refined in run.refined] == [0, 0]
    golds = [exercise.gold for exercise in EXERCISES[:2]]
    assert [gold for _, gold in grader.asked] == golds  # the refinements, and nothing else
    assert [answer for answer, _ in grader.asked] == golds  # nano keeps a right candidate


def test_an_exercise_that_cannot_be_refined_stops_all(engine: Engine) -> None:
    evaluator = Evaluator(engine, [*EXERCISES[:1], Exercise(" ", "1")], ExactGrader())
    with pytest.raises(InvalidRequest, match="problem: is empty"):
        evaluator.refine(SelfRefineParams(k=2, seed=0))
    assert not engine.has_work


def test_some_at_a_time_are_the_same_as_all_at_once(engine: Engine) -> None:
    steps: list[int] = []
    evaluator = Evaluator(engine, EXERCISES[:3], ExactGrader(), lambda: steps.append(1))
    params = SamplingParams(n=2, max_tokens=100, seed=4)
    whole = evaluator.draw(params)
    some = dict(evaluator.draw_each(params, [2, 1])) | dict(evaluator.draw_each(params, [0]))
    assert [some[index].attempts for index in range(3)] == whole
    assert not any(drawn.error for drawn in some.values())
    given = [[one.completion.content_ids for one in attempts] for attempts in whole]
    refine = SelfRefineParams(layout="linear", seed=4, refine=GREEDY)
    refined = dict(evaluator.refine_each(refine, [2, 0], given))
    expected = evaluator.refine(refine, given).refined
    for index in (2, 0):
        assert refined[index].result.refinement == expected[index].result.refinement
        assert refined[index].correct == expected[index].correct
    assert steps


def test_an_exercise_that_cannot_be_solved_leaves_the_others_alone(engine: Engine) -> None:
    evaluator = Evaluator(engine, [Exercise(" ", "1"), EXERCISES[0]], ExactGrader())
    drawn = dict(evaluator.draw_each(SHORT, [0, 1]))
    assert (drawn[0].error, drawn[0].attempts) == ("problem: is empty", [])
    assert (drawn[1].error, len(drawn[1].attempts)) == (None, 1)
    refined = dict(evaluator.refine_each(SelfRefineParams(k=2, seed=0, candidate=SHORT), [0, 1]))
    assert refined[0].result.error == "problem: is empty"
    assert not refined[0].correct
    assert refined[1].result.error is None
    assert str(evaluator.refusal(0, SHORT, SelfRefineParams(k=2))) == "problem: is empty"
    assert evaluator.refusal(1, SHORT, SelfRefineParams(k=2)) is None
    long = Evaluator(engine, [Exercise("7" * 3000, "1")], ExactGrader())
    assert "prompt: has " in str(dict(long.draw_each(SHORT, [0]))[0].error)


def test_what_nobody_waits_for_is_aborted(engine: Engine) -> None:
    evaluator = Evaluator(engine, EXERCISES, ExactGrader())
    each = evaluator.draw_each(SHORT, range(len(EXERCISES)))
    next(each)
    each.close()
    assert engine.stats()["requests_running"] == engine.stats()["requests_waiting"] == 0
    assert len(dict(evaluator.draw_each(SHORT, [0, 1]))) == 2
