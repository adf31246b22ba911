"""The steps in flight: planned, launched, and committed once their tokens are known."""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque

from gsr_engine.execution.faults import breaks_device, lacks_memory
from gsr_engine.execution.gpu import drop_caches
from gsr_engine.execution.metrics import Metrics
from gsr_engine.execution.runner import Launched, StepRunner
from gsr_engine.schedule.drafts import steadied
from gsr_engine.schedule.scheduler import Scheduler
from gsr_engine.step.plan import StepPlan

_log = logging.getLogger(__name__)


class Pipeline:
    """Keeps the device busy: the host plans and launches the next step during the current one.

        host    | plan 1 | plan 2 | commit 1, plan 3 | commit 2, plan 4 |
        device           | step 1           | step 2          | step 3

    So the end of a stream is known one step late. By then its end token has been fed in vain; it
    is not part of any span. With a lag of 0 every step is committed before the next is planned.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics, runner: StepRunner) -> None:
        self.runner = runner
        self._scheduler = scheduler
        self._metrics = metrics
        self._in_flight: deque[tuple[StepPlan, Launched]] = deque()
        self._since = 0.0  # when the device began with the oldest step in flight

    @property
    def busy(self) -> bool:
        """Whether a step is in flight."""
        return bool(self._in_flight)

    def step(self) -> None:
        """Launch the next step, and commit the one before it."""
        if not self._in_flight:
            self._since = time.perf_counter()
        elif self._tokens_are_needed():
            self._commit()
        began = time.perf_counter()
        plan = self._scheduler.plan()
        if plan.chunks:
            self._launch(plan)
            if plan.num_decodes == len(plan.chunks):
                self._expose(time.perf_counter() - began)
        # After an empty plan there is no newer step to overlap with, so the oldest is committed.
        if len(self._in_flight) > (self.runner.lag if plan.chunks else 0):
            self._commit()

    def forget_kv(self) -> None:
        """Commit every launched step, and let all KV be recomputed; requests keep their tokens."""
        self.drain()
        self._scheduler.forget_kv()

    def drain(self) -> None:
        """Commit every launched step."""
        while self._in_flight:
            self._commit()

    def _expose(self, host_seconds: float) -> None:
        """Tell the drafts what the host takes for a step: the device waits for it with drafts."""
        drafts = self._scheduler.drafts
        if drafts is not None and self.runner.lag:
            drafts.exposed_seconds = steadied(drafts.exposed_seconds or host_seconds, host_seconds)

    def _tokens_are_needed(self) -> bool:
        """Whether the host must know the tokens of the step in flight to plan the next.

        Drafts are looked up there; draws read the last token on the device.
        """
        plan, _ = self._in_flight[-1]
        drafts = self._scheduler.drafts
        return bool(plan.drafts) or (drafts is not None and drafts.wanted)

    def _launch(self, plan: StepPlan) -> None:
        try:
            draws = self.runner.launch(plan)
        except Exception as error:  # only the requests of this step fail
            if breaks_device(error):
                raise
            self.drain()
            if not (lacks_memory(error) and self._makes_room(plan, error)):
                self._fail(plan, error)
        else:
            self._scheduler.launched(plan)
            self._in_flight.append((plan, draws))

    def _commit(self) -> None:
        plan, pending = self._in_flight.popleft()
        try:
            draws = pending.wait()
        except Exception as error:
            if breaks_device(error):
                raise
            self._fail(plan, error)
            return
        self._scheduler.commit(plan, *draws)
        now = time.perf_counter()
        self._metrics.record_step(plan, now - self._since)
        self._since = now

    def _makes_room(self, plan: StepPlan, error: Exception) -> bool:
        """Give back what is kept for later, and plan less; returns whether that may help.

        What the step had written so far is written again: it was launched in part, and its plan is
        thrown away.
        """
        _log.warning("a step of %d tokens found no memory: %s", plan.num_tokens, error)
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
        self.runner.reset()
        drop_caches()
        return self._scheduler.plan_less(plan)

    def _fail(self, plan: StepPlan, error: Exception) -> None:
        _log.error("a step failed", exc_info=error)
        later = [launched for launched, _ in self._in_flight]
        self._scheduler.fail(plan, later, f"{type(error).__name__}: {error}")
        self.runner.reset()
