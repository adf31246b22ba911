"""Who is admitted, who waits, and who is preempted: one rule each. A page holds 16 tokens."""

from __future__ import annotations

import tracemalloc

import pytest

from gsr_engine.errors import OutOfPages
from gsr_engine.requests.request import GroupState, RequestState, StreamState
from gsr_engine.schedule.admission import OVERTAKES
from tests.helpers.jobs import Job, new_admission, write


def test_a_request_is_admitted_on_what_it_needs_now() -> None:
    job = Job(prompt=16, streams=2, max_tokens=10_000)
    admission, memory = new_admission(10, job)
    assert admission.admit() == [job]
    assert memory.pool.num_used == 1 + 2  # the prompt's page, and a first one for each stream
    assert job.state is RequestState.RUNNING
    assert job.groups[0].state is GroupState.PREFILLING
    assert [stream.state for stream in job.streams] == [StreamState.RUNNING] * 2


def test_one_page_in_fifty_stays_free_for_growth() -> None:
    first, second = Job(prompt=16 * 90), Job(prompt=16 * 7)  # with a stream each: 91 and 8 pages
    admission, _ = new_admission(100, first, second)
    assert admission.admit() == [first]  # 9 are free, and 8 + 2 are wanted
    assert second.state is RequestState.QUEUED


def test_a_small_request_does_not_overtake_a_large_one() -> None:
    running, large, small = Job(prompt=16 * 50), Job(prompt=16 * 60), Job(prompt=1)
    admission, _ = new_admission(100, running, large, small)
    assert admission.admit() == [running]
    assert (large.state, small.state) == (RequestState.QUEUED, RequestState.QUEUED)


def test_a_level_of_priority_counts_like_an_arrival_64_places_earlier() -> None:
    jobs = [Job() for _ in range(OVERTAKES + 1)]
    urgent = Job(priority=1)
    admission, _ = new_admission(1000, *jobs, urgent)
    order = admission.admit()
    assert order.index(jobs[1]) < order.index(urgent) < order.index(jobs[2])


def test_a_stream_takes_a_page_when_its_next_token_needs_one() -> None:
    job = Job()
    admission, memory = new_admission(10, job)
    admission.admit()
    write(job, 16)
    admission.grow()
    assert memory.pool.num_used == 2
    write(job, 17)
    admission.grow()
    assert memory.pool.num_used == 3


def test_cached_prompts_are_evicted_before_anybody_is_preempted() -> None:
    job, other = Job(prompt=16 * 8), Job(prompt=16 * 8)
    admission, memory = new_admission(12, job, other)
    admission.admit()
    admission.retire(job)
    assert memory.pool.num_idle == 8  # what the cache alone holds
    assert admission.admit() == [other]
    assert admission.num_preemptions == 0


def test_the_newest_request_with_candidates_is_preempted() -> None:
    oldest, older, newest = jobs = [Job(), Job(), Job()]
    admission, _ = new_admission(6, *jobs)
    admission.admit()
    write(oldest, 17)
    admission.grow()
    assert newest.state is RequestState.PREEMPTED
    assert older.state is RequestState.RUNNING


def test_candidates_are_preempted_before_refinements_even_newer_ones() -> None:
    oldest, candidates, refinement = jobs = [Job(), Job(), Job(refining=True)]
    admission, _ = new_admission(6, *jobs)
    admission.admit()
    write(oldest, 17)
    admission.grow()
    assert candidates.state is RequestState.PREEMPTED
    assert refinement.state is RequestState.RUNNING


def test_a_preempted_request_keeps_its_tokens_and_its_position() -> None:
    oldest, victim, late = Job(), Job(), Job()
    admission, _ = new_admission(4, oldest, victim)
    admission.admit()
    write(victim, 10)
    write(oldest, 17)
    admission.grow()
    admission.waiting.add(late)
    assert victim.streams[0].state is StreamState.WAITING
    assert len(victim.streams[0].segment) == 10
    assert not victim.streams[0].segment.pages
    admission.retire(oldest)
    assert admission.admit()[0] is victim


def test_of_the_oldest_request_single_streams_are_paused() -> None:
    job = Job(streams=3)
    admission, _ = new_admission(4, job)
    admission.admit()
    write(job, 17)
    admission.grow()
    states = [stream.state for stream in job.streams]
    assert job.state is RequestState.RUNNING
    assert states == [StreamState.RUNNING, StreamState.WAITING, StreamState.WAITING]


def test_a_paused_stream_resumes_when_a_sibling_ends() -> None:
    job = Job(streams=2)
    admission, memory = new_admission(4, job)
    admission.admit()
    write(job, 17)
    admission.grow()
    first, paused = job.streams
    first.end("stop")
    memory.drop_stream(first)
    admission.admit()
    assert paused.state is StreamState.RUNNING


def test_the_last_stream_of_the_oldest_request_is_never_paused() -> None:
    job = Job()
    admission, _ = new_admission(2, job)
    admission.admit()
    write(job, 17)
    with pytest.raises(OutOfPages, match="alone"):
        admission.grow()


def test_a_cached_copy_of_its_own_prompt_stands_in_nobodys_way() -> None:
    """Another request computed the same tokens while this one was preempted."""
    tokens = list(range(160))  # 10 of 24 pages
    job, twin = Job(token_ids=tokens), Job(token_ids=tokens, priority=1)
    admission, memory = new_admission(24, job)
    admission.admit()
    admission.preempt_all()
    assert memory.cache
    memory.cache.clear()
    admission.waiting.add(twin)
    assert admission.admit() == [twin, job]
    admission.retire(twin)
    assert memory.pool.num_idle == 10
    write(job, 16 * 14)
    admission.grow()
    assert memory.pool.num_used == 24
    assert admission.num_preemptions == 1


def test_a_request_that_fills_the_pool_references_nothing_that_is_cached() -> None:
    tokens = list(range(300))  # 19 pages, and a stream in one more
    known = Job(token_ids=tokens)
    job = Job(token_ids=[*tokens[:200], *range(500, 600)], most_pages=20)
    admission, memory = new_admission(20, known)
    admission.admit()
    admission.retire(known)
    admission.waiting.add(job)
    assert admission.admit() == [job]
    assert job.groups[0].prompt.context == ()
    assert memory.pool.num_used == 20


def test_others_make_room_for_one_stream_of_the_oldest() -> None:
    oldest, other = Job(prompt=32), Job()
    admission, memory = new_admission(6, oldest, other)
    admission.admit()
    memory.drop_stream(oldest.streams[0])
    write(other, 48)
    admission.grow()  # now no page is free
    assert oldest.streams[0].state is StreamState.RUNNING
    assert (oldest.state, other.state) == (RequestState.RUNNING, RequestState.PREEMPTED)


def test_a_step_admits_nobody_twice() -> None:
    jobs = [Job() for _ in range(30)]
    admission, _ = new_admission(40, *jobs)
    admitted = admission.admit()
    assert len(admitted) == len(set(admitted))
    assert admission.num_preemptions == 0


def test_who_waits_behind_a_request_that_does_not_fit_leaves_nothing_behind() -> None:
    running, large = Job(prompt=16 * 50), Job(prompt=16 * 60)
    admission, _ = new_admission(100, running, large)
    admission.admit()
    tracemalloc.start()
    for _ in range(5000):
        job = Job()
        admission.waiting.add(job)
        admission.waiting.remove(job)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
