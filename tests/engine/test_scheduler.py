"""What a step computes, and what follows from its tokens: one rule each."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pytest

from gsr_engine.errors import InvalidRequest
from gsr_engine.requests.request import GroupState, RequestState, StreamState
from tests.helpers.jobs import END, Job, new_scheduler, run_step


def test_siblings_draw_their_first_tokens_from_one_row() -> None:
    job = Job(prompt=20, streams=3)
    plan = run_step(new_scheduler(job))
    assert [len(chunk) for chunk in plan.chunks] == [20]
    assert [stream for _, stream in plan.draws] == job.streams
    assert {row for row, _ in plan.draws} == {0}


def test_decode_and_prefill_share_a_step() -> None:
    old, new = Job(prompt=20), Job(prompt=30)
    scheduler = new_scheduler(old)
    run_step(scheduler)
    scheduler.add(new)
    plan = run_step(scheduler)
    assert [(chunk.decode, len(chunk)) for chunk in plan.chunks] == [(True, 1), (False, 30)]
    assert old.groups[0].state is GroupState.DECODING


def test_a_long_prompt_is_computed_in_chunks_of_the_budget() -> None:
    scheduler = new_scheduler(Job(prompt=100), max_batch_tokens=40, max_num_seqs=40)
    plans = [run_step(scheduler) for _ in range(3)]
    assert [plan.num_tokens for plan in plans] == [40, 40, 20]
    assert [len(plan.draws) for plan in plans] == [0, 0, 1]


def test_prompts_of_refinements_go_first() -> None:
    candidates, refinement = Job(prompt=30), Job(prompt=30, refining=True)
    plan = run_step(new_scheduler(candidates, refinement, max_batch_tokens=40, max_num_seqs=40))
    assert [chunk.group.request for chunk in plan.chunks] == [refinement, candidates]
    assert [len(chunk) for chunk in plan.chunks] == [30, 10]


def test_a_known_prompt_leaves_one_token_to_compute() -> None:
    tokens = list(range(50))
    scheduler = new_scheduler(Job(token_ids=tokens))
    run_step(scheduler)
    scheduler.add(Job(token_ids=tokens))
    assert [len(chunk) for chunk in run_step(scheduler).chunks if not chunk.decode] == [1]


def test_a_prompt_waits_for_the_writer_of_what_it_shares() -> None:
    tokens = list(range(50))
    writer, reader = Job(token_ids=tokens), Job(token_ids=[*tokens, 99])
    scheduler = new_scheduler(writer, reader, max_batch_tokens=40, max_num_seqs=40)
    first = run_step(scheduler)
    assert [chunk.group.request for chunk in first.chunks] == [writer]
    second = run_step(scheduler)
    assert [chunk.group.request for chunk in second.chunks] == [writer, reader]


def test_an_end_token_ends_its_request_and_frees_everything() -> None:
    job = Job()
    scheduler = new_scheduler(job)
    run_step(scheduler, END)
    assert scheduler.finished == [job]
    assert (job.result, job.state) == ("done", RequestState.FINISHED)
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def test_max_tokens_ends_a_stream() -> None:
    job = Job(max_tokens=2)
    scheduler = new_scheduler(job)
    stream = scheduler.plan() and job.streams[0]
    for _ in range(2):
        run_step(scheduler)
    assert (stream.finish_reason, stream.state) == ("length", StreamState.SETTLED)


def test_logits_that_are_not_finite_end_their_own_request_only() -> None:
    broken, other = Job(), Job()
    scheduler = new_scheduler(broken, other)
    plan = scheduler.plan()
    scheduler.launched(plan)
    scheduler.commit(plan, [1, 1], [math.nan, -1.0])
    assert broken.result == "the model's logits are not finite"
    assert other.state is RequestState.RUNNING


def test_a_step_in_flight_already_has_its_place() -> None:
    """The next step is planned before the tokens of the one before it are known."""
    scheduler = new_scheduler(Job(prompt=20))
    for start in (0, 20, 21):
        plan = scheduler.plan()
        (chunk,) = plan.chunks
        assert chunk.segment.position + chunk.start == start
        scheduler.launched(plan)


def test_an_abort_is_reported_and_frees_its_pages_at_once() -> None:
    job = Job()
    scheduler = new_scheduler(job)
    run_step(scheduler)
    scheduler.end(job)
    assert (job.result, scheduler.finished) == ("abort", [job])
    scheduler.check()


def test_a_request_is_submitted_once() -> None:
    job = Job()
    scheduler = new_scheduler(job)
    with pytest.raises(InvalidRequest, match="request: was submitted before: it is queued"):
        scheduler.add(job)
    run_step(scheduler, END)
    with pytest.raises(InvalidRequest, match="it is finished"):
        scheduler.add(job)


def test_a_request_of_another_engine_is_left_alone() -> None:
    ours, theirs = Job(), Job()
    scheduler, other = new_scheduler(ours), new_scheduler(theirs)
    assert ours.queue_position == theirs.queue_position
    scheduler.end(theirs)
    assert (ours.result, theirs.result) == (None, None)
    other.end(theirs)
    assert theirs.result == "abort"


def test_a_result_that_cannot_be_put_together_fails_its_request_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, other = Job(), Job()
    scheduler = new_scheduler(broken, other)
    monkeypatch.setattr(broken, "group_finished", Mock(side_effect=ValueError("no text")))
    monkeypatch.setattr(broken, "end", Mock(side_effect=ValueError("no text again")))
    run_step(scheduler, END)
    assert broken.result == "ValueError: no text; ValueError: no text again"
    assert other.result == "done"
    assert scheduler.finished == [broken, other]


def test_deadlines_of_requests_that_ended_are_forgotten() -> None:
    scheduler = new_scheduler(pages=1000)
    for _ in range(500):
        job = Job()
        job.deadline = 1e9
        scheduler.add(job)
        scheduler.end(job)
    assert scheduler.num_deadlines < 100
