"""Any sequence of calls conserves pages and KV, and ends every request exactly once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.helpers.stub import Driver

# Rounds warn; here they only have to run.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("pages", [32, 60, 1000])
@pytest.mark.parametrize("lag", [0, 1])
def test_random_histories(seed: int, cache: bool, pages: int, lag: int) -> None:
    driver = Driver(
        seed,
        pages,
        lag,
        prefix_cache=cache,
        max_batch_tokens=48,
        max_num_seqs=40,
    )
    for _ in range(400):
        driver.act()
        driver.check()
    driver.drain()
    reasons = {c.finish_reason for r in driver.ended for c in _completions(r)}
    assert reasons >= {"stop", "length"}
    assert reasons & {"abort", "error"}


def _completions(request: object) -> list[object]:
    result = request.result  # type: ignore[attr-defined]
    return result.completions if hasattr(result, "completions") else result.candidates


class Machine(RuleBasedStateMachine):
    """The same under hypothesis, which finds the shortest history that breaks it."""

    @initialize(
        seed=st.integers(0, 1000), lag=st.sampled_from([0, 1]), pages=st.sampled_from([32, 60])
    )
    def begin(self, seed: int, lag: int, pages: int) -> None:
        self.driver = Driver(seed, pages, lag, max_batch_tokens=48, max_num_seqs=40)

    @rule(count=st.integers(1, 10))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.driver.step()

    @rule()
    def generate(self) -> None:
        self.driver.submit_generate()

    @rule()
    def refine(self) -> None:
        self.driver.submit_refine()

    @rule()
    def abort(self) -> None:
        self.driver.abort()

    @rule()
    def evict(self) -> None:
        self.driver.evict()

    @rule()
    def fail(self) -> None:
        self.driver.fail()

    @rule()
    def fail_late(self) -> None:
        self.driver.fail_late()

    @rule()
    def poison(self) -> None:
        self.driver.poison()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "driver"):
            self.driver.check()

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            self.driver.drain()


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, derandomize=True
)
