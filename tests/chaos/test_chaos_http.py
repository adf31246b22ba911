"""A short form of `make chaos-http`: the server among clients who leave, lie and are unlucky."""

from __future__ import annotations

import pytest

from tests.chaos.http.faults import break_everything

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


def test_every_client_is_answered_once_and_nothing_is_left_of_those_who_left() -> None:
    report = break_everything(seed=1, clients=30, seconds=6)
    print(report)
    assert report.tally.answers[200] > 20
    assert report.tally.left > 5
    assert report.compared
