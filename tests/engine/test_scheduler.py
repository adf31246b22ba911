"""What a step computes, and what follows from its tokens: one rule each."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pytest

from gsr_engine.config import EngineConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import Span
from gsr_engine.requests.deadlines import Deadlines
from gsr_engine.requests.request import GroupState, RequestState, StreamState
from gsr_engine.schedule.scheduler import Scheduler
from tests.helpers.jobs import END, Job, new_memory, new_scheduler, run_step


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
    assert [chunk.group.request for chunk in second.chunks] == [writer]
    third = run_step(scheduler)
    (copied,) = third.copies.values()
    assert copied == (Span(writer.groups[0].prompt, 0, 50),)
    assert [(c.group.request, c.start) for c in third.chunks if not c.decode] == [(reader, 50)]


def test_a_long_piece_is_read_in_the_step_that_computes_it() -> None:
    tokens = list(range(200))
    writer, reader = Job(token_ids=tokens), Job(token_ids=[*tokens, 99])
    scheduler = new_scheduler(writer, reader)
    plan = run_step(scheduler)
    assert [len(chunk) for chunk in plan.chunks] == [200, 1]
    assert not plan.copies


def test_who_waits_for_a_copy_computes_it_if_its_writer_is_aborted() -> None:
    tokens = list(range(50))
    writer, reader = Job(token_ids=tokens), Job(token_ids=[*tokens, 99])
    scheduler = new_scheduler(writer, reader, max_batch_tokens=40, max_num_seqs=40)
    run_step(scheduler)
    scheduler.end(writer)
    assert [(c.start, c.stop) for c in run_step(scheduler).chunks] == [(0, 40)]
    assert [(c.start, c.stop) for c in run_step(scheduler).chunks] == [(40, 51)]


def test_what_not_finite_logits_read_is_not_found_again() -> None:
    tokens = list(range(200))
    scheduler = new_scheduler(Job(token_ids=tokens))
    run_step(scheduler, logprob=math.nan)
    again = Job(token_ids=tokens)
    scheduler.add(again)
    assert sum(len(chunk) for chunk in run_step(scheduler).chunks) == 200
    assert again.result is None


def test_what_a_finite_draw_has_read_is_kept_when_a_later_one_is_not_finite() -> None:
    tokens = list(range(200))
    scheduler = new_scheduler(Job(token_ids=tokens))
    run_step(scheduler)
    run_step(scheduler, logprob=math.nan)
    scheduler.add(Job(token_ids=tokens))
    assert sum(len(chunk) for chunk in run_step(scheduler).chunks) == 1


def test_who_read_what_is_forgotten_computes_it_again_and_goes_on() -> None:
    """A long prompt is still being computed from a beginning that turns out to be broken."""
    tokens = list(range(200))
    broken, reader = Job(token_ids=tokens), Job(token_ids=[*tokens, *range(300, 400)])
    scheduler = new_scheduler(broken, reader, max_batch_tokens=250, max_num_seqs=40)
    run_step(scheduler, logprob=math.nan)
    assert broken.result == "the model's logits are not finite"
    computed = {}
    for _ in range(3):
        for chunk in run_step(scheduler).chunks:
            computed[chunk.segment] = computed.get(chunk.segment, 0) + len(chunk)
    assert list(computed.values())[:2] == [200, 100]
    assert len(reader.streams[0].segment) == 2


def test_a_step_that_fails_takes_its_kv_and_only_its_requests_along() -> None:
    tokens = list(range(200))
    broken, other = Job(token_ids=tokens), Job(prompt=20)
    scheduler = new_scheduler(broken)
    plan = scheduler.plan()
    scheduler.launched(plan)
    scheduler.fail(plan, [], "the device burnt down")
    scheduler.add(other)
    scheduler.add(Job(token_ids=tokens))
    assert broken.result == "the device burnt down"
    assert sum(len(chunk) for chunk in run_step(scheduler).chunks) == 20 + 200
    assert other.result is None


def test_later_steps_that_read_what_a_failed_step_wrote_fail_too() -> None:
    tokens = list(range(200))
    broken, reader, other = Job(token_ids=tokens), Job(token_ids=[*tokens, 7]), Job(prompt=20)
    scheduler = new_scheduler(broken)
    first = scheduler.plan()
    scheduler.launched(first)
    scheduler.add(reader)
    scheduler.add(other)
    second = scheduler.plan()
    scheduler.launched(second)
    scheduler.fail(first, [second], "the device burnt down")
    assert (broken.result, reader.result, other.result) == ("the device burnt down",) * 2 + (None,)
    scheduler.check()


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
        job.deadlines = Deadlines(timeout=1e9, candidate_timeout=1e8)
        scheduler.add(job)
        scheduler.end(job)
    assert scheduler.num_deadlines < 100


def test_a_result_that_cannot_be_put_together_at_the_timeout_fails_its_request_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken, other = Job(), Job()
    broken.deadlines = Deadlines(timeout=0.0)
    scheduler = new_scheduler(broken, other)
    monkeypatch.setattr(broken, "end", Mock(side_effect=ValueError("no text")))
    run_step(scheduler, END)
    assert broken.result == "ValueError: no text; ValueError: no text"
    assert other.result == "done"
    assert scheduler.finished == [broken, other]


def test_both_deadlines_of_a_request_are_watched() -> None:
    clock, stopped = Mock(return_value=100.0), []
    scheduler = Scheduler(EngineConfig(), new_memory(100), clock=clock)
    job, timeless = Job(), Job()
    job.deadlines = Deadlines(timeout=20.0, candidate_timeout=10.0)
    job.stop_candidates = lambda: stopped.append(clock())  # type: ignore[method-assign]
    scheduler.add(job)
    scheduler.add(timeless)
    for clock.return_value in (105.0, 110.0, 115.0):
        run_step(scheduler)
    assert (job.result, stopped) == (None, [110.0])
    clock.return_value = 120.0
    run_step(scheduler)
    assert (job.result, timeless.result) == ("timeout", None)
    assert stopped == [110.0]
    assert scheduler.finished == [job]


def test_streams_that_wait_for_pages_are_counted() -> None:
    old, new = Job(streams=3), Job(prompt=16 * 4, streams=2)
    scheduler = new_scheduler(old, new, pages=8)
    assert (scheduler.num_running_streams, scheduler.num_waiting_streams) == (0, 5)
    run_step(scheduler)  # 4 pages for the old one; the new one needs 6
    assert (scheduler.num_running_streams, scheduler.num_waiting_streams) == (3, 2)
    for _ in range(33):
        run_step(scheduler)  # 3 pages for each stream are too many
    assert [stream.state for stream in old.streams].count(StreamState.WAITING) == 1
    assert (scheduler.num_running_streams, scheduler.num_waiting_streams) == (2, 3)
    scheduler.end(new)
    assert (scheduler.num_running_streams, scheduler.num_waiting_streams) == (2, 1)
    scheduler.end(old)
    assert (scheduler.num_running_streams, scheduler.num_waiting_streams) == (0, 0)


def test_an_exception_while_a_token_is_taken_ends_its_request_only() -> None:
    broken, other = Job(), Job()
    scheduler = new_scheduler(broken, other)
    run_step(scheduler)
    matcher = Mock()
    matcher.push.side_effect = RuntimeError("no such token")
    matcher.text = None
    broken.streams[0].matcher = matcher
    run_step(scheduler)
    assert broken.result == "RuntimeError: no such token"
    assert (other.result, len(other.streams[0].segment)) == (None, 2)


def test_a_prompt_that_a_reader_computed_still_draws() -> None:
    """The reader overtakes it: it needs these tokens, and computes them in its own name."""
    tokens = list(range(160))
    first, job = Job(prompt=150), Job(token_ids=tokens)
    reader = Job(token_ids=[*tokens, 7], priority=2)
    scheduler = new_scheduler(first, job, max_batch_tokens=40, max_num_seqs=40)
    run_step(scheduler)
    scheduler.add(reader)
    for _ in range(12):
        run_step(scheduler)
    assert len(reader.streams[0].segment) > 0
    assert len(job.streams[0].segment) > 0


def test_a_prompt_without_streams_that_a_reader_computed_is_settled() -> None:
    tokens = list(range(160))
    job, reader = Job(token_ids=tokens, streams=0), Job(token_ids=[*tokens, 7], priority=2)
    scheduler = new_scheduler(Job(prompt=150), job, max_batch_tokens=40, max_num_seqs=40)
    run_step(scheduler)
    scheduler.add(reader)
    for _ in range(12):
        run_step(scheduler)
    assert job.result == "done"


def test_what_was_copied_from_broken_kv_takes_its_source_along() -> None:
    """Who wrote it went away before anything was drawn from it, so it was cached unproven."""
    tokens = list(range(50))
    writer, victim = Job(token_ids=tokens), Job(token_ids=[*tokens, 97])
    scheduler = new_scheduler(writer)
    plan = scheduler.plan()
    scheduler.launched(plan)
    scheduler.end(writer)
    scheduler.commit(plan, [1], [-1.0])
    scheduler.add(victim)
    assert run_step(scheduler, logprob=math.nan).copies
    assert victim.result == "the model's logits are not finite"
    later = Job(token_ids=[*tokens, 98])
    scheduler.add(later)
    plan = run_step(scheduler)
    assert not plan.copies
    assert sum(map(len, plan.chunks)) == 51
