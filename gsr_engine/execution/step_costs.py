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

_FIRST = (1, 4, 8, 16)
_MORE = (2, 24, 32, 9, 12, 48, 64, 96, 128)
"""Rows of the steps that are timed; the latter as far as there is time, in this order."""
_SHORT, _LONG = 16, 1024
"""Tokens that each row sees."""
_GREEDY = SamplingParams(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
_MANY = 8
"""Rows of the step that is also timed with more tokens to see."""
_ROUNDS = 16
_PATIENCE = 1.0
"""Seconds after which no other step is timed; after twice as many none is timed again."""


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Seconds of a step, as `StepCosts` has them.

    Between measured numbers of rows the seconds are interpolated. Beyond the last they grow as
    between the last two, and at least in proportion: what was not measured shall not look cheap.

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
        last, seconds = self.rows[-1], self.seconds[-1]
        if rows <= last:
            return float(np.interp(rows, self.rows, self.seconds))
        slope = seconds / last
        if len(self.rows) > 1:
            slope = max(slope, (seconds - self.seconds[-2]) / (last - self.rows[-2]))
        return seconds + (rows - last) * slope


def measure_step_costs(runner: Runner, config: EngineConfig) -> MeasuredCosts | None:
    """Time steps of one stream: longer and longer drafts, and one that sees more tokens.

    They are timed in turns, and the best counts: other work on the machine only adds to it. KV
    pages are written, so nothing may be in them yet. None if such a stream has no room, in the
    pages or in the model's length: then no draft has any.
    """
    positions = config.model_length(runner.decoder.config)
    room = min((runner.num_pages - pages_for(_SHORT)) * PAGE_SIZE, positions - _SHORT)
    most = min(config.most_draws, room - 1)
    if most < 1:
        return None
    many = min(_MANY, most)
    room = (runner.num_pages - pages_for(many + 1)) * PAGE_SIZE
    length = min(_LONG, room, positions - many - 1)
    plain, longer = _Probe(1, _SHORT, goes_on=True), _Probe(many, length)
    first = [_Probe(rows, _SHORT) for rows in sorted({1, many, *_FIRST}) if rows <= most]
    more = [_Probe(rows, _SHORT) for rows in _MORE if rows <= most]
    best = _timed(runner, [*first, plain, longer], more)
    drafts = sorted((p for p in (*first, *more) if p in best), key=lambda probe: probe.rows)
    runner.reset()
    # Nobody asked for these steps.
    if runner.sharing is not None:
        runner.sharing.reset()
    if runner.graph_counts is not None:
        runner.graph_counts.reset()
    # A smaller step takes no longer than a larger one, whatever was measured.
    seconds = np.minimum.accumulate([best[probe] for probe in reversed(drafts)])[::-1]
    draft_seconds = max(0.0, float(seconds[0]) - best[plain])
    return MeasuredCosts(
        tuple(probe.rows for probe in drafts),
        tuple((seconds - draft_seconds).tolist()),
        draft_seconds,
        max(0.0, best[longer] - best[next(p for p in drafts if p.rows == many)])
        / (many * max(1, length - _SHORT)),
    )


def _timed(runner: Runner, first: list[_Probe], more: list[_Probe]) -> dict[_Probe, float]:
    """The least seconds of some steps, and of as many more as there is time for."""
    began = time.perf_counter()
    best = {probe: probe.seconds(runner) for probe in first}
    for probe in more:
        if time.perf_counter() - began > _PATIENCE:
            break
        best[probe] = probe.seconds(runner)
    # The first time a step may touch memory that is new: quick ones are timed again.
    for _ in range(_ROUNDS):
        if time.perf_counter() - began > 2 * _PATIENCE:
            break
        best = {probe: min(seconds, probe.seconds(runner)) for probe, seconds in best.items()}
    return best


class _Probe:
    """A step whose rows are a token and its draft, behind `length` tokens.

    If it `goes_on`, it computes one token after a step that computed the one before: decoding
    without a draft.
    """

    def __init__(self, rows: int, length: int, goes_on: bool = False) -> None:
        self.rows = rows
        self._starts = (0, 1) if goes_on else (0,)
        pages = iter(range(pages_for(length) + pages_for(rows + 1)))
        seen = Segment([0] * length, pages=[*islice(pages, pages_for(length))])
        context = (Span(seen, 0, length),)
        self._own = Segment([0] * len(self._starts), length, context, pages=[*pages])

    def seconds(self, runner: Runner) -> float:
        """How long it takes now."""
        nobody: Any = None  # a runner does not ask to whom a chunk belongs
        stream = Stream(0, _GREEDY, 0, {}, self._own)
        began = 0.0
        for start in self._starts:
            plan = StepPlan(
                chunks=[Chunk(nobody, self._own, start, start + self.rows, decode=True)],
                draws=[(0, stream)] * self.rows,
                num_tokens=self.rows,
                num_decodes=1,
                drafts={self._own: [0] * (self.rows - 1)} if self.rows > 1 else {},
            )
            began = time.perf_counter()
            runner.launch(plan).wait()
        return time.perf_counter() - began
