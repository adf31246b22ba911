"""Any sequence of actions conserves pages and KV, and ends every request exactly once."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gsr_engine import SamplingParams
from tests.chaos.actions import ACTIONS, Event, random_history
from tests.chaos.shrink import shrink
from tests.chaos.stub_world import StubWorld

_PARAMS = SamplingParams(max_tokens=5)
# Rounds warn; here they only have to run.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("pages", [32, 60, 1000])
@pytest.mark.parametrize("lag", [0, 1])
def test_random_histories(cache: bool, pages: int, lag: int) -> None:
    ended: list[Any] = []
    for seed in range(2):
        world = StubWorld(pages, lag, prefix_cache=cache, max_batch_tokens=48)
        world.live_through(random_history(seed, 400))
        ended += world.ended
    reasons = {c.finish_reason for request in ended for c in _completions(request)}
    assert reasons >= {"stop", "length", "timeout", "abort", "error"}


@pytest.mark.parametrize("seed", range(24))
def test_random_worlds(seed: int) -> None:
    StubWorld.random(seed).live_through(random_history(seed, 500))


def _completions(request: Any) -> list[Any]:
    result = request.result
    return result.completions if hasattr(result, "completions") else result.candidates


class Machine(RuleBasedStateMachine):
    """The same under hypothesis, which finds the shortest history that breaks it."""

    @initialize(lag=st.sampled_from([0, 1]), pages=st.sampled_from([32, 36, 60]))
    def begin(self, lag: int, pages: int) -> None:
        self.world = StubWorld(pages, lag, max_batch_tokens=48)

    @rule(action=st.sampled_from(ACTIONS), seed=st.integers(0, 1000))
    def act(self, action: Any, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Event(action.name, seed).happen(self.world)

    @rule(count=st.integers(1, 10))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.world.step()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True
)


def test_a_history_is_shrunk_to_the_events_that_it_needs() -> None:
    history = [Event("step", seed) for seed in range(100)]
    needed = {history[3], history[50], history[51]}
    assert set(shrink(history, lambda part: needed <= set(part))) == needed


def test_an_event_is_read_as_it_is_printed() -> None:
    for event in random_history(0, 20):
        assert Event.read(str(event)) == event


def test_a_lost_page_is_found() -> None:
    """The checks of a history can fail."""
    world = StubWorld(60)
    world.generate([7] * 40, _PARAMS)
    world.step()
    pool = world.engine.memory.pool
    pool.hold(world.live[0].groups[0].prompt, 40)
    with pytest.raises(Exception, match="holders differ"):
        world.check()


def test_a_wrong_token_is_found() -> None:
    world = StubWorld(60)
    world.generate([7] * 40, _PARAMS)
    world.step()
    world.live[0].groups[0].streams[0].segment.token_ids[0] += 1
    with pytest.raises(AssertionError):
        world.drain()
