"""The users of an engine; after each of their actions everything is checked."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from gsr_engine import (
    Engine,
    EngineConfig,
    GenerateResult,
    RefineResult,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.demo.report import NANO
from gsr_engine.errors import InvalidRequest
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.runner import StepRunner
from gsr_engine.model.decoder import Decoder
from gsr_engine.params import Layout
from gsr_engine.requests.generate import GenerateRequest
from gsr_engine.requests.request import Request, RequestState, Stream, StreamState
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.requests.two_engines import RefineElsewhere
from gsr_engine.schedule.admission import AnyRequest
from tests.chaos.actions import Event, Fault, timed
from tests.helpers.pieces import check_pieces

Make = Callable[[Engine], AnyRequest]
MAX_STREAMS = 40
_ERRORS = ("RuntimeError: ", "KeyboardInterrupt", "not finite", "usable", "timeout", "aborted")
_MOST_SAID = 12
_MOST_LIVE = 30


@cache
def nano() -> tuple[Decoder, Tokenizer, GsrConfig | None]:
    """Nano's parts, loaded once: all worlds only read them."""
    return load_parts(NANO, EngineConfig())


class EngineWorld(ABC):
    """An `Engine`; see `World`. What breaks and how a result is judged is left to its kinds.

    Args:
        runner: computes the steps of the engine.
        refiner: computes the steps of a second engine, which refines what the first one writes.
    """

    problems = ("1 * 2", "1 * 3", "7 * 8 * 9 + 1", " * ".join("7" * 40))
    layouts: tuple[Layout, ...] = ("linear", "branched")
    faults: tuple[Fault, ...]
    longest = 200

    def __init__(self, runner: StepRunner, refiner: StepRunner, **options: Any) -> None:
        self.now = 0.0
        self.engine = self._new_engine(runner, options)
        self._refiner = self._new_engine(refiner, {})
        self.live: list[AnyRequest] = []
        self.ended: list[AnyRequest] = []
        self._named: dict[AnyRequest, int] = {}
        self.said: list[list[int]] = []
        # How to ask another engine the same, if no timeout may come before the end.
        self.asked: dict[AnyRequest, Make] = {}

    def _new_engine(self, runner: StepRunner, options: dict[str, Any]) -> Engine:
        config = EngineConfig(max_num_seqs=MAX_STREAMS, **options)
        return Engine(*nano(), config, runner=runner, clock=lambda: self.now)

    @property
    def soon(self) -> float:
        """See `World`: the more requests there are, the longer each of them takes."""
        return len(self.live) * 3.0 + 1.0

    @abstractmethod
    def fault(self, kind: Fault, rng: random.Random) -> None:
        """See `World`."""

    @abstractmethod
    def judge(self, request: AnyRequest) -> None:
        """Judge the tokens of a request that ended."""

    def live_through(self, history: list[Event]) -> None:
        """Let a history happen, check after every action, and let everybody reach an end."""
        for event in history:
            if len(self.live) > _MOST_LIVE:
                self.step()
            else:
                event.happen(self)
            self.check()
        self.drain()

    def generate(self, prompt: list[int], params: SamplingParams) -> None:
        self._submit(lambda engine: engine.new_generate(prompt, params), params)
        self.said.append(prompt)  # others may go on with it before it is computed

    def refine(self, problem: str, params: SelfRefineParams, given: list[list[int]] | None) -> None:
        # A candidate that was cut is two: what has KV, and its last token.
        named = 2 * max(params.k, *params.round_widths) if params.layout == "branched" else 0
        self._submit(
            lambda engine: engine.new_self_refine(problem, params, candidates=given),
            params,
            named,
        )
        self.said.append(self.engine.direct_prompt(problem))

    def _submit(
        self, make: Make, params: SamplingParams | SelfRefineParams, named: int = 0
    ) -> None:
        try:
            request = make(self.engine)
        except InvalidRequest as error:
            if error.field != "max_tokens":  # more than the whole pool holds
                raise
            return
        if not timed(params):
            self.asked[request] = make
        self.submit(request, named)

    def submit(self, request: Request[Any], named: int = 0) -> None:
        """`named`: spans that its refinements name themselves, two for each candidate."""
        self.engine.submit(request)
        self.live.append(request)
        self._named[request] = named

    def two_engines(self, problem: str, params: SelfRefineParams) -> None:
        try:
            both = RefineElsewhere(_Writer(self), self._refiner, [(problem, params)])
        except InvalidRequest as error:
            if error.field != "max_tokens":
                raise
            return
        (result,) = both.run()
        assert "does not fit" not in (result.error or "")

    def step(self) -> list[AnyRequest]:
        self.now += 1.0
        before, streams = self.engine.scheduler.num_preemptions, self._num_streams()
        try:
            finished = self.engine.step()
        except KeyboardInterrupt:  # everybody failed, and the next step says so
            assert all(request.finished for request in self.live)
            return []
        # One step preempts or pauses everybody at most once, however little room there is.
        assert self.engine.scheduler.num_preemptions - before <= streams + MAX_STREAMS
        for request in finished:
            assert request.finished
            self.live.remove(request)  # exactly once
            del self._named[request]
            self.ended.append(request)
            self._check_result(request)
        return finished

    def _num_streams(self) -> int:
        return sum(request.num_streams for request in self.live)

    def _check_result(self, request: AnyRequest) -> None:
        error = request.result.error
        assert error is None or any(known in error for known in _ERRORS), error
        if error is None:
            assert _answers(request.result), "nothing was answered, without an error"
        self.judge(request)
        if isinstance(request.result, GenerateResult) and error is None:
            for one in request.result.completions:
                self.said.append([*request.result.prompt_token_ids, *one.token_ids])
            self.said = self.said[-_MOST_SAID:]

    def abort(self, rng: random.Random) -> None:
        if self.live:
            self.engine.abort(rng.choice(self.live))

    def misuse(self, rng: random.Random) -> None:
        known = self.live + self.ended[-5:]
        if known:
            with pytest.raises(InvalidRequest, match="submitted before"):
                self.engine.submit(rng.choice(known))
        self.engine.abort(GenerateRequest([7], SamplingParams(), 0, *self._foreign()))
        if self.ended:
            self.engine.abort(rng.choice(self.ended[-5:]))

    def _foreign(self) -> Any:
        return self._refiner.tokenizer, self._refiner.limits

    def evict(self) -> None:
        cache = self.engine.memory.cache
        if cache:
            cache.evict()

    def reload(self) -> None:
        self.engine.reload_weights(NANO)  # loads them again, which the stub ignores

    def check(self) -> None:
        self.engine.check()
        self._check_streams()
        for request in self.live:
            for group in request.groups:
                check_pieces(group.context, self._named[request])

    def _check_streams(self) -> None:
        """The streams that wait for pages are counted."""
        waiting = 0
        for request in self.live:
            if request.state in (RequestState.QUEUED, RequestState.PREEMPTED):
                waiting += request.num_streams
            elif request.state is RequestState.RUNNING:
                states = [stream.state for stream in streams_of(request)]
                waiting += states.count(StreamState.WAITING)
        assert self.engine.scheduler.num_waiting_streams == waiting

    def drain(self) -> None:
        """Everybody reaches an end, and everything is free."""
        steps = 0
        while self.engine.has_work:
            self.step()
            steps += 1
            assert steps < 5_000, "no progress"
        assert not self.live
        cache = self.engine.memory.cache
        if cache:
            cache.clear()
        self.engine.check()
        pool = self.engine.memory.pool
        assert pool.num_free == pool.num_pages


class _Writer:
    """The engine of a world, as `RefineElsewhere` steps it: the world sees what finishes."""

    def __init__(self, world: EngineWorld) -> None:
        self._world = world
        self.submit, self.step = world.submit, world.step
        self.new_generate, self.abort = world.engine.new_generate, world.engine.abort
        self.new_self_refine = world.engine.new_self_refine
        self.direct_prompt = world.engine.direct_prompt
        self.candidate_sampling = world.engine.candidate_sampling
        self.solution_text = world.engine.solution_text


def _answers(result: GenerateResult | RefineResult) -> bool:
    """Whether it holds a token of an answer, or was aborted."""
    if isinstance(result, RefineResult):
        return result.refinement is not None and bool(result.refinement.token_ids)
    reasons = {one.finish_reason for one in result.completions}
    return "timeout" not in reasons or any(one.token_ids for one in result.completions)


def streams_of(request: AnyRequest) -> list[Stream]:
    """Every stream of a request, given ones too."""
    if isinstance(request, SelfRefineRequest):
        return [stream for streams in request.rounds for stream in streams]
    assert isinstance(request, GenerateRequest)
    return request.streams
