"""One work by two engines over the same weights: without lookup decoding, and with it.

Timed are the whole answers, and the refinements of the same candidates, which are given.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from benchmarks.peers.job import JobResult
from benchmarks.throughput.ours import refining_seconds
from benchmarks.throughput.works import WorkSize
from gsr_engine import Engine, EngineConfig, RefineResult, SamplingParams, SelfRefineParams
from gsr_engine.cli.options import LOOPS
from gsr_engine.config import Quantization
from gsr_engine.execution.device import build_runner
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.runner import Runner
from gsr_engine.params import Layout

LOOKUP = {"method": "ngram", "num_speculative_tokens": 16}
WITHOUT, WITH = "without", "with"
WAYS = {WITHOUT: None, WITH: LOOKUP}
"""What `EngineConfig.speculative_config` is, by the name of the way."""
WHOLE, REFINEMENT = "whole", "refinement"
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """What an engine computes in."""

    dtype: str
    quantization: Quantization

    @property
    def name(self) -> str:
        """In tables."""
        return self.dtype if self.quantization == "none" else self.quantization


class EnginePair:
    """Engines without and with lookup decoding, over the same weights.

    Attributes:
        arithmetic: what both compute in.
        is_exact: whether a row's bits depend on nobody's company; then all tokens must be equal.
        engines: by way.
    """

    def __init__(self, model: Path, arithmetic: Arithmetic, kv_gib: float) -> None:
        """Load the weights; `kv_gib` is the memory of each engine for KV, in GiB."""
        kinds: dict[str, Any] = asdict(arithmetic)
        parts = load_parts(model, EngineConfig(**kinds))
        self.arithmetic = arithmetic
        self.is_exact = parts[0].device.type == "cpu" and parts[0].dtype == torch.float32
        self.engines: dict[str, Engine] = {}
        self._runners: dict[str, Runner] = {}
        for way, speculation in WAYS.items():
            config = EngineConfig(kv_cache_gib=kv_gib, speculative_config=speculation)
            self._runners[way] = build_runner(parts[0], config)
            self.engines[way] = Engine(*parts, config, runner=self._runners[way])

    @property
    def num_graphs(self) -> dict[str, int]:
        """How many shapes of steps have a graph by now, by way; 0 on a CPU."""
        return {way: runner.num_graphs for way, runner in self._runners.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self.engines.values():
            engine.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the refinements of one run took.

    Attributes:
        tokens: drawn.
        tokens_per_step: drawn by one stream in one decode step.
        proposed, accepted: tokens that were looked up and verified, and those that were right.
        decode_seconds: of their decode steps.
    """

    tokens: int
    tokens_per_step: float
    proposed: int
    accepted: int
    decode_seconds: float

    @classmethod
    def of(cls, results: Sequence[RefineResult]) -> Self:
        """Of results with a single refinement each.

        Raises:
            ValueError: no refinement has more than the token that its prompt draws.
        """
        decodes = [result.usage.phase("refine_decode") for result in results]
        tokens, steps = sum(map(len, map(_refined, results))), sum(one.steps for one in decodes)
        if not steps:
            raise ValueError("every refinement ended with its first token")
        return cls(
            tokens=tokens,
            tokens_per_step=(tokens - len(results)) / steps,
            proposed=sum(one.tokens_proposed for one in decodes),
            accepted=sum(one.tokens_accepted for one in decodes),
            decode_seconds=sum(one.seconds for one in decodes),
        )


class LookupComparison:
    """One work in one layout, by both engines of a pair.

    Attributes:
        counts: of each run of the refinements alone, by way.
        same: the fewest problems of a run whose tokens were all those of the first run.
    """

    def __init__(
        self, pair: EnginePair, problems: Sequence[str], size: WorkSize, layout: Layout
    ) -> None:
        """Compare over these problems, `size.problems` at a time."""
        self._pair, self._size, self._layout = pair, size, layout
        step = size.problems
        self._batches = [problems[i : i + step] for i in range(0, len(problems), step)]
        self._runs = 0
        self._candidates: list[list[list[int]]] = []
        self._first: dict[str, list[list[list[int]]]] = {}
        self.counts: dict[str, list[Counts]] = {way: [] for way in WAYS}
        self.same = len(problems)

    def warm_up(self) -> None:
        """Let both engines touch their memory with two tokens of each stream."""
        params = self._params("warm-up", replace(self._size, candidate=2, refine=2))
        for engine in self._pair.engines.values():
            engine.self_refine(self._batches[0], params)

    def runs(self) -> dict[str, Callable[[], JobResult]]:
        """What takes turns, by `run_name`; the first draws the candidates of the refinements.

        A run raises ValueError if a problem fails, or if exact tokens differ.
        """
        timed = {WHOLE: self._whole, REFINEMENT: self._refinement}
        return {
            run_name(what, way): partial(run, way) for what, run in timed.items() for way in WAYS
        }

    def _whole(self, way: str) -> JobResult:
        seconds, results = self._solve(WHOLE, way)
        if not self._candidates:
            self._candidates = [[one.content_ids for one in r.candidates] for r in results]
        refining = refining_seconds(results)
        return JobResult(
            seconds_candidates=seconds - refining,
            seconds_refine=refining,
            tokens=sum(result.usage.completion_tokens for result in results),
        )

    def _refinement(self, way: str) -> JobResult:
        """`seconds_candidates` is what reading them takes: only decoding is compared."""
        seconds, results = self._solve(REFINEMENT, way)
        counts = Counts.of(results)
        self.counts[way].append(counts)
        return JobResult(
            seconds_candidates=seconds - counts.decode_seconds,
            seconds_refine=counts.decode_seconds,
            tokens=counts.tokens,
        )

    def _solve(self, what: str, way: str) -> tuple[float, list[RefineResult]]:
        self._runs += 1
        params = self._params(f"run {self._runs}", self._size)
        given, results = iter(self._candidates), list[RefineResult]()
        start = time.perf_counter()
        for batch in self._batches:
            candidates = [next(given) for _ in batch] if what == REFINEMENT else None
            results += self._pair.engines[way].self_refine(batch, params, candidates)
        seconds = time.perf_counter() - start
        self._check(what, way, results)
        return seconds, results

    def _params(self, cache_salt: str, size: WorkSize) -> SelfRefineParams:
        """`cache_salt` is another for each run, so that none finds the KV of another."""
        return SelfRefineParams(
            k=size.k,
            layout=self._layout,
            candidate=_stream(1.0, size.candidate),
            refine=_stream(0.0, size.refine),
            seed=_SEED,
            cache_salt=f"{self._layout} {cache_salt} {size}",
            force_layout=True,
        )

    def _check(self, what: str, way: str, results: Sequence[RefineResult]) -> None:
        """Compare all tokens with those of the first run of its kind."""
        where = f"{self._layout}, {run_name(what, way)}"
        for index, result in enumerate(results):
            if result.error:
                raise ValueError(f"{where}: problem {index}: {result.error}")
        drawn = [[*(one.token_ids for one in r.candidates), _refined(r)] for r in results]
        first = self._first.setdefault(what, drawn)
        pairs = enumerate(zip(first, drawn, strict=True))
        differing = [index for index, (one, other) in pairs if one != other]
        if differing and self._pair.is_exact:
            raise ValueError(
                f"{where}: tokens of problems {differing} differ from those of the first run"
            )
        self.same = min(self.same, len(results) - len(differing))


def run_name(what: str, way: str) -> str:
    """The name of a kind of run."""
    return f"{what}, {way} lookup decoding"


def _refined(result: RefineResult) -> list[int]:
    return result.refinement.token_ids if result.refinement else []


def _stream(temperature: float, tokens: int) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=tokens, repetition_detection=LOOPS)
