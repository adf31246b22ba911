"""Who holds which pages: one rule each. A page holds 16 tokens."""

from __future__ import annotations

from functools import partial

import pytest

from gsr_engine.errors import PoolCorrupted
from gsr_engine.kv.segments import Segment
from gsr_engine.requests.request import Group, GroupState, StreamState
from gsr_engine.schedule.memory import Memory
from tests.helpers.jobs import CANDIDATE, Job, new_memory


def held_group(memory: Memory, job: Job) -> Group:
    """The group of a job, held, its prompt computed."""
    (group,) = job.groups = job.start(partial(memory.new_prompt, spare_pages=100))
    memory.hold(group)
    for stream in group.streams:
        memory.hold_stream(stream)
    group.prompt.computed = len(group.prompt)
    return group


def test_siblings_share_the_pages_of_their_prompt() -> None:
    memory = new_memory(20)
    held_group(memory, Job(prompt=50, streams=4))
    assert memory.pool.num_used == 4 + 4  # the prompt's, and one for each stream


def test_a_prompt_that_is_known_shares_pages_too() -> None:
    memory, tokens = new_memory(20), list(range(160))
    held_group(memory, Job(token_ids=tokens))
    again = held_group(memory, Job(token_ids=tokens))
    assert len(again.prompt) == 1
    assert memory.pool.num_used == 10 + 1 + 1 + 1  # shared, the last token's own, two streams


def test_released_pages_stay_cached_until_they_are_needed() -> None:
    memory = new_memory(10)
    group = held_group(memory, Job(prompt=80))
    memory.release(group)
    assert (memory.pool.num_used, memory.pool.num_idle) == (0, 5)
    assert group.state is GroupState.WAITING
    assert memory.make_free(10)
    assert memory.pool.num_idle == 0


def test_nothing_is_saved_when_pages_are_freed() -> None:
    """Whoever holds the segment again has its KV recomputed."""
    memory = new_memory(10)
    group = held_group(memory, Job(prompt=80))
    memory.release(group)
    memory.make_free(10)
    memory.hold(group)
    assert (group.prompt.computed, len(group.prompt.pages)) == (0, 5)


def test_pages_that_are_held_are_never_evicted() -> None:
    memory = new_memory(10)
    held_group(memory, Job(prompt=80))
    assert not memory.make_free(5)
    assert memory.make_free(4)


def test_a_stream_waits_without_pages_and_runs_with_them() -> None:
    memory = new_memory(10)
    (stream,) = held_group(memory, Job()).streams
    assert stream.state is StreamState.RUNNING
    memory.drop_stream(stream)
    assert stream.state is StreamState.WAITING
    assert memory.pool.num_used == 1


def test_the_most_that_a_request_held_is_noted() -> None:
    memory, job = new_memory(20), Job(prompt=50, streams=4)
    group = held_group(memory, job)
    memory.note_peak(job)
    memory.release(group)
    memory.note_peak(job)
    assert job.usage.peak_pages == 8


def test_a_page_that_nobody_accounts_for_is_found() -> None:
    memory = new_memory(20)
    group = held_group(memory, Job())
    memory.check([group])
    stranger = Group(Job(), Segment([1]), CANDIDATE)
    memory.hold(stranger)
    with pytest.raises(PoolCorrupted):
        memory.check([group])
