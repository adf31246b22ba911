"""What is proposed, and how much of it is worth its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import SamplingParams
from gsr_engine.execution.step_costs import MeasuredCosts
from gsr_engine.kv.segments import Segment, Span
from gsr_engine.requests.lookup import Lookup
from gsr_engine.requests.request import Stream, StreamState
from gsr_engine.schedule.drafts import Drafts
from tests.helpers.drafts import FREE

token_lists = st.lists(st.integers(0, 3), min_size=1, max_size=40)


def context(*texts: list[int]) -> tuple[Span, ...]:
    return tuple(Span(Segment(text), 0, len(text)) for text in texts)


def proposal(texts: list[list[int]], own: list[int], most: int = 8) -> list[int]:
    lookup = Lookup(context(*texts))
    lookup.follow(own, most)
    return lookup.proposal


@pytest.mark.parametrize(
    ("texts", "own", "wanted"),
    [
        ([[1, 2, 3, 4, 5]], [1, 2], [3, 4, 5]),
        ([[1, 2, 3], [4, 5, 6]], [2, 3], []),  # no match runs from one text into the next
        ([[1, 2, 3], [9, 2, 7]], [9, 2], [7]),  # the longer match wins
        ([[2, 3], [2, 4], [2, 3]], [2], [3]),  # the more frequent wins
        ([[2, 3], [2, 4]], [2], [4]),  # of equals the latest
        ([[1, 5, 6], [1, 5, 7], [1, 8]], [1], [5, 7]),  # token by token
        ([[]], [1, 2, 3, 1, 2], [3, 1, 2]),  # its own text
        ([[7]], [1], []),
    ],
)
def test_what_is_proposed(texts: list[list[int]], own: list[int], wanted: list[int]) -> None:
    """The stream's own text follows the last one that it sees, so a proposal may run into it."""
    found = proposal(texts, own)
    assert found[: len(wanted)] == wanted
    assert bool(found) == bool(wanted)


@given(texts=st.lists(token_lists, max_size=4), own=token_lists, most=st.integers(0, 9))
def test_a_proposal_follows_the_longest_match(
    texts: list[list[int]], own: list[int], most: int
) -> None:
    """Its first token is the most frequent one behind the longest matches of up to 4 tokens."""
    found = proposal(texts, own, most)
    assert len(found) <= most
    every = [*texts[:-1], texts[-1] + own] if texts else [own]
    for size in range(min(4, len(own)), 0, -1):
        followers = [
            tuple(text[at + size : at + size + 1])
            for text in every
            for at in range(len(text) - size + 1)
            if text[at : at + size] == own[-size:]
        ]
        followers.remove(())  # behind its own end nothing followed yet
        if followers:
            # The ends of two texts are not the same follower.
            votes = {one: followers.count(one) if one else 1 for one in followers}
            wanted = {one for one, count in votes.items() if count == max(votes.values())}
            assert tuple(found[:1]) in (wanted if most else {()})
            return
    assert not found


@given(own=token_lists, texts=st.lists(token_lists, max_size=3), cuts=st.sets(st.integers(1, 39)))
def test_reading_in_pieces_is_reading_at_once(
    own: list[int], texts: list[list[int]], cuts: set[int]
) -> None:
    """However many tokens are drawn between two looks, e.g. beside many streams."""
    lookup = Lookup(context(*texts))
    for cut in sorted(cut for cut in cuts if cut < len(own)):
        lookup.follow(own[:cut], 8)
    lookup.follow(own, 8)
    assert lookup.proposal == proposal(texts, own)


def test_acceptance_follows_the_stream() -> None:
    lookup = Lookup(context([1, 2, 3, 4] * 20))
    own: list[int] = []
    for token in [1, 2, 3, 4] * 5:
        own.append(token)
        lookup.follow(own, 4)
    assert lookup.acceptance > 0.9
    for token in [1, 3, 1, 4, 2, 1, 3, 2, 4, 3]:
        own.append(token)
        lookup.follow(own, 4)
    assert lookup.acceptance < 0.4


def stream(own: list[int], seen: list[int] | None = None, most: int = 100, **more: Any) -> Stream:
    segment = Segment(own, context=context(seen or [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]))
    segment.computed = len(own) - 1
    params = SamplingParams(max_tokens=most)
    made = Stream(0, params, 0, {}, segment, **more)
    made.state = StreamState.RUNNING
    return made


@dataclass(frozen=True)
class Costs:
    """A step of n rows takes 1 + slope * n."""

    slope: float
    draft_seconds: float = 0.0
    token_seconds: float = 0.0

    def row_seconds(self, rows: int) -> float:
        return 1.0 + self.slope * rows


def test_free_rows_are_all_taken() -> None:
    drafts = Drafts(8, 100, FREE)
    one, other = stream([1, 2]), stream([99, 98])
    assert drafts.choose([one, other]) == {one: [3, 4, 5, 6, 7, 8, 9, 10]}
    assert drafts.wanted


@pytest.mark.parametrize(("limit", "wanted"), [(100, 8), (2, 0), (5, 2), (4, 1)])
def test_a_draft_ends_before_its_stream(limit: int, wanted: int) -> None:
    """Its last token is drawn from the draft's last row."""
    one = stream([1, 2], most=limit)
    assert len(Drafts(8, 100, FREE).choose([one]).get(one, [])) == wanted


def test_rows_are_limited() -> None:
    streams = [stream([1, 2]) for _ in range(4)]
    chosen = Drafts(8, 10, FREE).choose(streams, others=2)
    assert sum(map(len, chosen.values())) == 4


def test_a_token_in_flight_leaves_a_stream_without_draft() -> None:
    drafts = Drafts(8, 100, FREE)
    one = stream([1, 2], in_flight=1)
    assert drafts.choose([one]) == {}
    assert drafts.wanted  # so the next step is planned once all tokens are known


def test_the_dearer_a_row_the_shorter_the_draft() -> None:
    lengths = []
    for slope in (0.0, 0.05, 0.2, 1.0, 50.0):
        one = stream([1, 2])
        lengths.append(len(Drafts(8, 100, Costs(slope)).choose([one]).get(one, [])))
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 8
    assert lengths[-1] == 0


def test_many_streams_turn_it_off() -> None:
    """Where a step of rows is as long as its rows are many, nothing is even looked up."""
    costs = MeasuredCosts((1, 8, 16, 64), (1.0, 1.1, 2.0, 8.0), 0.0, 0.0)
    for count, drafted in ((1, True), (16, False), (300, False)):
        streams = [stream([1, 2]) for _ in range(count)]
        assert bool(Drafts(8, 5000, costs).choose(streams)) == drafted
        assert (streams[0].lookup is not None) == drafted


@pytest.mark.parametrize("field", ["draft_seconds", "token_seconds"])
def test_every_cost_counts(field: str) -> None:
    one = stream([1, 2])
    dear = replace(Costs(0.01), **{field: 100.0})
    assert Drafts(8, 100, Costs(0.01)).choose([one])
    assert not Drafts(8, 100, dear).choose([stream([1, 2])])


def test_what_is_always_wrong_is_not_drafted_for_long() -> None:
    """And it is looked at again later, so that it may come back."""
    drafts, own = Drafts(8, 100, Costs(0.1)), [1]
    one = stream(own, seen=[1, 2] * 100, most=1000)
    drafted = []
    wrong = [token for other in range(3, 33) for token in (other, 1)]
    for token in wrong + [2, 1] * 60:
        drafted.append(bool(drafts.choose([one])))
        own.append(token)
    assert drafted[0]
    assert not any(drafted[20:60])
    assert all(drafted[100:])


def test_costs_between_and_beyond_what_was_measured() -> None:
    costs = MeasuredCosts((1, 2, 4), (1.0, 1.5, 2.0), 0.0, 0.0)
    assert [costs.row_seconds(rows) for rows in (1, 2, 3, 4, 6)] == [1.0, 1.5, 1.75, 2.0, 2.5]
    assert MeasuredCosts((1,), (2.0,), 0.0, 0.0).row_seconds(9) == 2.0
