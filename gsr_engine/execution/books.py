"""The books of an engine: its requests, their pages, and the steps in flight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from gsr_engine.config import EngineConfig
from gsr_engine.errors import EngineClosed, InvalidRequest
from gsr_engine.execution.faults import breaks_device
from gsr_engine.execution.metrics import Metrics
from gsr_engine.execution.ownership import Ownership
from gsr_engine.execution.pipeline import Pipeline
from gsr_engine.execution.runner import StepRunner
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.model.weights import Renewal
from gsr_engine.requests.request import RequestState
from gsr_engine.schedule.admission import AnyRequest
from gsr_engine.schedule.drafts import Drafts
from gsr_engine.schedule.memory import Memory
from gsr_engine.schedule.scheduler import Scheduler

T = TypeVar("T")


class Books:
    """Changed by one thread at a time, and whole after every call, however it ends.

    An interrupt (Ctrl-C) may cut a change in two at any point, and so may an error of a step. Then
    nothing that is written is trusted: every unfinished request fails with the cause, the books
    begin anew with every page free, and the exception goes on. A later `step` reports these
    requests; none is ever reported twice.

    After an error that breaks the device for this process the books do not begin anew: once these
    requests are reported, everything is refused with that error as the cause.

    Attributes:
        ownership: which thread uses them.
        scheduler, memory: the present ones.
    """

    def __init__(
        self, config: EngineConfig, runner: StepRunner, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._clock = clock
        self._metrics = Metrics()
        self._unreported: dict[int, AnyRequest] = {}  # all that were submitted, by identity
        self._cut_off: BaseException | None = None  # what left them half written
        self._ended_by: BaseException | None = None  # what no step can follow
        self.ownership = Ownership()
        self._pipeline: Pipeline | None = self._begin(runner)

    def _begin(self, runner: StepRunner) -> Pipeline:
        pool = PagePool(runner.num_pages)
        self.memory = Memory(pool, PrefixCache(pool) if self._config.prefix_cache else None)
        drafts, speculation = None, self._config.speculation
        if speculation is not None and runner.costs is not None:
            most_rows = self._config.most_draws
            drafts = Drafts(speculation.num_speculative_tokens, most_rows, runner.costs)
        self.scheduler = Scheduler(self._config, self.memory, self._clock, drafts)
        return Pipeline(self.scheduler, self._metrics, runner)

    @property
    def has_work(self) -> bool:
        """Whether a submitted request is unfinished, or not reported by `step` yet."""
        scheduler, launched = self.scheduler, self._pipeline is not None and self._pipeline.busy
        unfinished = scheduler.num_waiting or scheduler.num_running
        return bool(unfinished or scheduler.finished or launched)

    def submit(self, request: AnyRequest) -> None:
        """See `Engine.submit`."""
        self._change(partial(self._submit, request))

    def _submit(self, request: AnyRequest) -> None:
        self._running()
        self.scheduler.add(request)
        self._unreported[id(request)] = request

    def step(self) -> list[AnyRequest]:
        """See `Engine.step`."""
        return self._change(self._step)

    def _step(self) -> list[AnyRequest]:
        if self._ended_by is None or not self.scheduler.finished:
            pipeline = self._running()
            pipeline.step()
            if not self.has_work:
                pipeline.runner.reset()
        finished, self.scheduler.finished = self.scheduler.finished, []
        for request in finished:
            self._unreported.pop(id(request), None)
            self._metrics.record_finished(request.usage)
        return finished

    def abort(self, request: AnyRequest) -> None:
        """See `Engine.abort`."""
        self._change(lambda: self.scheduler.end(request))

    def use(self, renew: Renewal, in_place: bool) -> None:
        """Switch to other weights: running requests keep their tokens, all KV is recomputed.

        If weights are overwritten in place and that is cut off, some are old and some new: then the
        books end, as after an error that breaks the device.
        """
        with self.ownership.held():
            self._change(lambda: self._running().forget_kv())
            self._change(lambda: self._running().runner.use(renew), ends=in_place)

    def close(self) -> None:
        """Forget the runner, and with it the model and the KV; from now on `EngineClosed`."""
        if self.ownership.home.is_present:  # model and KV are not a fork's to drop
            self._change(self._close)

    def _close(self) -> None:
        self._pipeline = None

    def _running(self) -> Pipeline:
        if self._pipeline is None:
            raise self.ended or EngineClosed("the engine is closed")
        return self._pipeline

    @property
    def ended(self) -> EngineClosed | None:
        """See `Engine.ended`."""
        cause = self._ended_by
        if cause is None:
            return None
        first_line = _told(cause).partition("\n")[0]
        ended = EngineClosed(f"the engine ended, make a new one: {first_line}")
        ended.__cause__ = cause
        return ended

    def _change(self, work: Callable[[], T], ends: bool = False) -> T:
        begun = self.ownership.take()
        try:
            self._begin_anew()
            return work()
        except (InvalidRequest, EngineClosed):
            raise  # refused before anything was changed
        except BaseException as error:
            if ends or breaks_device(error):
                self._ended_by = error
            self._cut_off = error
            self._begin_anew()
            if self.ended and isinstance(error, Exception):
                raise self.ended from error
            raise
        finally:
            if begun:
                self.ownership.give()

    def _begin_anew(self) -> None:
        """Does nothing unless a change was cut off.

        If this is interrupted in its turn, the next call does it again.
        """
        cause, pipeline = self._cut_off, self._pipeline
        if cause is None:
            return
        error = _told(cause)
        if pipeline is not None:
            anew = self._begin(pipeline.runner)
            if self._ended_by is None:
                self._pipeline = anew
                pipeline.runner.reset()
            else:
                self._pipeline = None
        for request in self._unreported.values():
            if not request.finished:
                request.fail(error)
            request.groups, request.state = [], RequestState.FINISHED
        self.scheduler.finished = list(self._unreported.values())
        self._cut_off = None

    def check(self) -> None:
        """See `Engine.check`."""
        self.scheduler.check()

    def as_dict(self) -> dict[str, Any]:
        """See `Engine.stats`."""
        runner = self._pipeline.runner if self._pipeline else None
        sharing = runner.sharing if runner else None
        graphs = runner.graph_counts if runner else None
        return {
            **self._metrics.as_dict(),
            "requests_waiting": self.scheduler.num_waiting,
            "requests_running": self.scheduler.num_running,
            "streams_waiting": self.scheduler.num_waiting_streams,
            "streams_running": self.scheduler.num_running_streams,
            **self.memory.as_dict(),
            "preemptions": self.scheduler.num_preemptions,
            "shared_spans": sharing.as_dict() if sharing else None,
            "cuda_graphs": graphs.as_dict() if graphs else None,
        }


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
