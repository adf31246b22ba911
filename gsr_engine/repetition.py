"""Loops: when the end of a stream counts as one, and a matcher that sees it as it is written."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gsr_engine.errors import InvalidRequest, check_int

MOST_PATTERN = 1024
"""Upper limit of `max_pattern_size`, because a token may be compared with this many before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionDetectionParams:
    """When a stream has run into a loop; names and meaning are vLLM's.

    It has when its last tokens are `min_count` times the same pattern of `min_pattern_size` to
    `max_pattern_size` tokens. A shorter loop is seen as well, because several of its turns are a
    pattern, too. So at least `min_pattern_size * min_count` tokens repeat.

    Attributes:
        max_pattern_size: tokens of the longest pattern; 0 detects nothing.
        min_pattern_size: tokens of the shortest pattern; 0 stands for 1.
        min_count: how often the pattern stands there; at least 2.
    """

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range or a contradiction."""
        for name, most in (
            ("max_pattern_size", MOST_PATTERN),
            ("min_pattern_size", MOST_PATTERN),
            ("min_count", 2**31 - 1),
        ):
            object.__setattr__(self, name, check_int(name, getattr(self, name), 0, most))
        if self.min_pattern_size > self.max_pattern_size:
            raise InvalidRequest(
                "min_pattern_size",
                f"{self.min_pattern_size} is above max_pattern_size {self.max_pattern_size}",
            )
        if self.max_pattern_size and self.min_count < 2:
            raise InvalidRequest("min_count", f"must be at least 2, got {self.min_count}")


class RepetitionMatcher:
    """Reads the tokens of one stream and sees when it has run into a loop.

    A token costs as many comparisons as the last `max_pattern_size` tokens hold of its kind.
    """

    def __init__(self, params: RepetitionDetectionParams) -> None:
        self._least = max(1, params.min_pattern_size)
        self._most = params.max_pattern_size
        self._repeats = params.min_count - 1
        self._length = 0
        self._window: deque[int] = deque()  # the last `_most` tokens
        self._places: dict[int, deque[int]] = {}  # where each of them stands in the stream
        # For each period how many of the last tokens equal the one that far before them. Periods
        # whose count is 0 are absent.
        self._runs: dict[int, int] = {}

    def push(self, token: int) -> bool:
        """Add the stream's next token; returns whether the stream now ends in a loop."""
        places, before = self._places.setdefault(token, deque()), self._runs
        runs, loops = dict[int, int](), False
        for place in places:
            period = self._length - place
            runs[period] = run = before.get(period, 0) + 1
            if run >= period * self._repeats and period >= self._least:
                loops = True
        self._runs = runs
        places.append(self._length)
        self._window.append(token)
        self._length += 1
        if len(self._window) > self._most:
            oldest = self._window.popleft()
            self._places[oldest].popleft()
            if not self._places[oldest]:
                del self._places[oldest]
        return loops
