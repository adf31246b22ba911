"""Measures at the start how long steps take that only decode."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from gsr_engine.config import EngineConfig
from gsr_engine.execution.runner import Runner
from gsr_engine.kv.segments import PAGE_SIZE, Segment, Span, pages_for
from gsr_engine.params import SamplingParams
from gsr_engine.requests.request import Stream
from gsr_engine.step.plan import Chunk, StepPlan

_ROWS = (1, 2, 4, 8, 9, 12, 16, 24, 32, 48, 64, 96, 128)
_SHORT, _LONG = 16, 1024
"""Tokens that each row sees."""
_GREEDY = SamplingParams(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
_ROUNDS = 12
_ROUNDS_SECONDS = 0.05
"""Each step is timed at most so many times, and after three times no longer than this."""
_PATIENCE = 2.0
"""Seconds after which no larger step is measured."""


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Seconds of a step, as `StepCosts` has them.

    Between measured numbers of rows the seconds are interpolated; beyond the last they grow as
    between the last two.

    Attributes:
        rows: measured numbers of rows, ascending.
        seconds: of a step with so many rows that see next to nothing; it has a draft unless it has
            one row.
        draft_seconds, token_seconds: see `StepCosts`.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    draft_seconds: float
    token_seconds: float

    def row_seconds(self, rows: int) -> float:
        """See `StepCosts`."""
        last = self.rows[-1]
        if rows <= last or len(self.rows) == 1:
            return float(np.interp(rows, self.rows, self.seconds))
        slope = (self.seconds[-1] - self.seconds[-2]) / (last - self.rows[-2])
        return self.seconds[-1] + (rows - last) * slope


def measure_step_costs(runner: Runner, config: EngineConfig) -> MeasuredCosts:
    """Time steps of one stream: longer and longer drafts, and one that sees more tokens.

    Each is timed some times, and the best counts: other work on the machine only adds to it. KV
    pages are written, so nothing may be in them yet.
    """
    began, room = time.perf_counter(), (runner.num_pages - 2) * PAGE_SIZE
    most = min(config.most_draws, room - _SHORT)
    rows: list[int] = []
    seconds: list[float] = []
    for count in _ROWS:
        if count > most or (len(rows) > 2 and time.perf_counter() - began > _PATIENCE):
            break
        rows.append(count)
        seconds.append(_best(runner, count, _SHORT))
    plain = _best(runner, 1, _SHORT, goes_on=True)
    draft_seconds = max(0.0, seconds[0] - plain)
    # A larger step takes no less, whatever was measured.
    every = np.maximum.accumulate(seconds) - draft_seconds
    length = min(_LONG, room - rows[-1])
    many = max(count for count in rows if count <= 8)
    more = _best(runner, many, length) - _best(runner, many, _SHORT) if length > _SHORT else 0.0
    runner.reset()
    return MeasuredCosts(
        tuple(rows),
        tuple(every.tolist()),
        draft_seconds,
        max(0.0, more) / (many * max(1, length - _SHORT)),
    )


def _best(runner: Runner, rows: int, length: int, goes_on: bool = False) -> float:
    """The least seconds of a step whose rows are a token and its draft, behind `length` tokens.

    If it `goes_on`, each step computes the token after that of the step before, as without drafts.
    """
    tokens = rows + goes_on * _ROUNDS
    pages = iter(range(pages_for(length) + pages_for(tokens)))
    seen = Segment([0] * length, pages=[*islice(pages, pages_for(length))])
    own = Segment([0] * tokens, length, (Span(seen, 0, length),), pages=[*pages])
    stream = Stream(0, _GREEDY, 0, {}, own)
    nobody: Any = None  # a runner does not ask to whom a chunk belongs
    times: list[float] = []
    for step in range(1 + _ROUNDS):  # the first may compile, capture, or touch memory for once
        if len(times) > 3 and sum(times) > _ROUNDS_SECONDS:
            break
        start = goes_on * step
        plan = StepPlan(
            chunks=[Chunk(nobody, own, start, start + rows, decode=True)],
            draws=[(0, stream)] * rows,
            num_tokens=rows,
            num_decodes=1,
            drafts={own: [0] * (rows - 1)} if rows > 1 else {},
        )
        began = time.perf_counter()
        runner.launch(plan).wait()
        times.append(time.perf_counter() - began)
    return min(times[1:])
