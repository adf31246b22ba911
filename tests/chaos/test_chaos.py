"""Nano under injected faults: fixed seeds of what `make chaos` draws afresh."""

from __future__ import annotations

import pytest

from tests.chaos.__main__ import live, live_async
from tests.chaos.actions import random_history

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("seed", range(6))
def test_nobody_but_the_victim_of_a_fault_notices_it(seed: int) -> None:
    live(seed, random_history(seed, 150))


@pytest.mark.parametrize("seed", range(6))
def test_every_caller_is_answered_once_whatever_happens(seed: int) -> None:
    live_async(seed, random_history(seed, 150))
