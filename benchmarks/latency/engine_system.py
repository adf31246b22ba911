"""The engine in this process, behind its asyncio front, in one layout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.latency.cell import Streams
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.servers import NotAnswered
from gsr_engine import Engine, InvalidRequest, SelfRefineParams
from gsr_engine.errors import GsrError
from gsr_engine.outputs import RefineResult
from gsr_engine.params import Layout
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.serving.events import CandidateDone, CandidateToken, Final, RefineToken


class EngineSystem:
    """One layout of an engine that several systems share, one after the other.

    Args:
        engine: which; `front` has it, and nobody else uses it.
        front: of the engine.
        layout: forced on a model that does not claim it.
    """

    def __init__(self, engine: Engine, front: AsyncEngine, layout: Layout) -> None:
        self.name = f"engine {layout}"
        self._engine, self._front, self._layout = engine, front, layout

    @asynccontextmanager
    async def open(self, streams: Streams) -> AsyncIterator[EngineAnswerer]:
        """Ready at once; the peak of KV pages begins anew."""
        pool = self._engine.memory.pool
        pool.peak_used = pool.num_used
        yield EngineAnswerer(self._engine, self._front, self._layout, streams)


class EngineAnswerer:
    """One layout of an engine for one cell; the arguments are those of `EngineSystem`."""

    def __init__(
        self, engine: Engine, front: AsyncEngine, layout: Layout, streams: Streams
    ) -> None:
        self._engine, self._front = engine, front
        self._layout, self._streams = layout, streams

    async def answer(self, problem: str, seed: int, moments: Moments) -> TimedAnswer:
        """See `Answerer`. Tokens between the first and the last of a stream are told with these."""
        events = self._front.self_refine(problem, self._params(seed), coalesce="all")
        result: RefineResult | None = None
        try:
            async for event in events:
                match event:
                    case CandidateToken() | CandidateDone():
                        moments.candidate(event.index)
                    case RefineToken():
                        moments.refinement()
                    case Final():
                        result = event.result
        except InvalidRequest as error:
            raise NotAnswered(f"refused: {error}") from None
        except GsrError as error:
            raise NotAnswered(str(error)) from error
        if result is None or result.error is not None or result.refinement is None:
            raise NotAnswered(f"failed: {result and result.error}")
        return self._timed(result, result.refinement.token_ids, moments)

    def _timed(self, result: RefineResult, refined: list[int], moments: Moments) -> TimedAnswer:
        candidate_tokens = sum(len(one.token_ids) for one in result.candidates)
        if wrong := self._streams.check(candidate_tokens, len(refined)):
            raise NotAnswered(wrong)
        phases = result.usage.phases.values()
        return moments.answer(
            candidate_tokens=candidate_tokens,
            refine_tokens=len(refined),
            computed_tokens=sum(phase.tokens_computed for phase in phases),
            candidate_answers=[self._engine.find_answer(one) for one in result.candidates],
            answer=result.answer,
        )

    def _params(self, seed: int) -> SelfRefineParams:
        streams = self._streams
        return SelfRefineParams(
            k=streams.k,
            layout=self._layout,
            force_layout=True,
            candidate=streams.sampling(refinement=False),
            refine=streams.sampling(refinement=True),
            seed=seed,
            view=streams.view,
            summary_tokens=streams.summary_tokens,
            cache_salt=streams.salt,
        )

    async def peak_pages(self) -> int:
        """See `Answerer`."""
        return self._engine.memory.pool.peak_used
