"""Our side of `benchmarks.throughput`: linear, branched, and with sharing off."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from benchmarks.peers.job import Job, JobResult, do_job
from benchmarks.quantization.losses import decoder_loss
from gsr_engine import Engine, EngineConfig, RefineResult, SamplingParams, SelfRefineParams
from gsr_engine.config import Quantization
from gsr_engine.execution.loading import load_parts
from gsr_engine.params import Layout
from gsr_engine.text.problem_prompts import ProblemPrompts

_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineWork:
    """selfRef@k of several problems at fixed lengths; see `Job`.

    `quantization` is this engine's: "none" is products in `dtype`.
    """

    model: Path
    problems: Sequence[str]
    k: int
    candidate_tokens: int
    refine_tokens: int
    dtype: str
    threads: int
    kv_gib: float
    ignore_eos: bool = True
    quantization: Quantization = "none"
    texts: Sequence[list[int]] = ()
    device: str = "cpu"

    @property
    def precision(self) -> str:
        """Of this engine's products."""
        return self.dtype if self.quantization == "none" else self.quantization

    def params(self, layout: Layout, tokens: int | None = None, run: int = 0) -> SelfRefineParams:
        """The request; `tokens` instead of the work's own lengths.

        Neither the other layout nor another run finds its KV.
        """
        return SelfRefineParams(
            k=self.k,
            layout=layout,
            candidate=_stream(1.0, tokens or self.candidate_tokens, self.ignore_eos),
            refine=_stream(0.0, tokens or self.refine_tokens, self.ignore_eos),
            seed=_SEED,
            summary_tokens=max(1000, self.candidate_tokens),
            cache_salt=f"{layout} {run}",
            force_layout=True,
        )

    def job(self, engine: Engine, results: Sequence[RefineResult]) -> Job:
        """The same work for a peer, with the candidates of these results to refine.

        It is in `dtype`, and asks for no loss.
        """
        problems = [ProblemPrompts(engine.prompts, problem) for problem in self.problems]
        return Job(
            model=str(self.model.absolute()),
            dtype=self.dtype,
            threads=self.threads,
            k=self.k,
            prompts=[problem.direct for problem in problems],
            candidate_tokens=self.candidate_tokens,
            refine_prompts=[
                problem.linear([candidate.content_ids for candidate in result.candidates])
                for problem, result in zip(problems, results, strict=True)
            ],
            refine_tokens=self.refine_tokens,
            kv_gib=self.kv_gib,
            device=self.device,
            ignore_eos=self.ignore_eos,
        )


class OurEngines:
    """An engine for the layouts, and one that shares nothing, over the same weights.

    On a GPU an engine takes all the memory that there is, so only one of the two fits.

    Attributes:
        decoder: the weights.
        loss: mean loss over the work's texts; None if it has none.
        job: the work for the peers; there is none before a layout ran.
        phase_tokens: of each layout that ran, the tokens that each phase computed.
    """

    def __init__(self, work: RefineWork) -> None:
        self._work = work
        config = EngineConfig(dtype=work.dtype, quantization=work.quantization, device=work.device)
        self._parts = load_parts(work.model, config)
        self.decoder = self._parts[0]
        self.loss = decoder_loss(self.decoder, work.texts) if work.texts else None
        self._engines: dict[bool, Engine] = {}
        self._runs = 0
        self.job: Job | None = None
        self.phase_tokens: dict[str, dict[str, int]] = {}

    def refine(self, layout: Layout) -> JobResult:
        """Do the work in one layout."""
        self._runs += 1
        engine = self._engine(shares=True)
        result, results = end_to_end(engine, self._work, layout, self._runs)
        self.phase_tokens[layout] = _phase_tokens(results)
        if self.job is None:
            self.job = self._work.job(engine, results)
        return replace(result, loss=self.loss)

    def share_nothing(self) -> JobResult:
        """Do the job as a peer would without prefix cache. A layout must have run before."""
        assert self.job is not None  # noqa: S101  # so the docstring
        return replace(sharing_off(self._engine(shares=False), self.job), loss=self.loss)

    def _engine(self, *, shares: bool) -> Engine:
        if shares not in self._engines:
            kv_gib = self._work.kv_gib if self._work.device == "cpu" else None
            config = EngineConfig(
                device=self._work.device, kv_cache_gib=kv_gib, prefix_cache=shares
            )
            self._engines[shares] = Engine(*self._parts, config)
        return self._engines[shares]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.close()


def _stream(temperature: float, tokens: int, ignore_eos: bool) -> SamplingParams:
    """A stream of exactly so many tokens: end tokens are ignored, or cannot be drawn."""
    return SamplingParams(
        temperature=temperature,
        max_tokens=tokens,
        min_tokens=0 if ignore_eos else tokens,
        ignore_eos=ignore_eos,
    )


def _phase_tokens(results: Sequence[RefineResult]) -> dict[str, int]:
    tokens: Counter[str] = Counter()
    for result in results:
        for phase, usage in result.usage.phases.items():
            tokens[phase] += usage.tokens_computed
    return dict(tokens)


def end_to_end(
    engine: Engine, work: RefineWork, layout: Layout, run: int = 0
) -> tuple[JobResult, list[RefineResult]]:
    """Do the work in one layout. Runs of one engine and work have different numbers.

    Raises:
        ValueError: the number of generated tokens differs from the work's.
    """
    warm_up = work.params(layout, 2, run)
    engine.self_refine([problem[::-1] for problem in work.problems], warm_up)
    start = time.perf_counter()
    results = engine.self_refine(work.problems, work.params(layout, run=run))
    seconds = time.perf_counter() - start
    tokens = sum(result.usage.completion_tokens for result in results)
    expected = len(work.problems) * (work.k * work.candidate_tokens + work.refine_tokens)
    if tokens != expected:
        raise ValueError(f"{tokens} tokens came, {expected} were asked for: {results[0].error}")
    refining = refining_seconds(results)
    outcome = JobResult(
        seconds_candidates=seconds - refining, seconds_refine=refining, tokens=tokens
    )
    return outcome, results


def refining_seconds(results: Sequence[RefineResult]) -> float:
    """Seconds of the refinements: of each step the share by tokens.

    One problem may refine while another still drafts.
    """
    return sum(
        usage.seconds
        for result in results
        for phase, usage in result.usage.phases.items()
        if phase.startswith("refine")
    )


def sharing_off(engine: Engine, job: Job) -> JobResult:
    """Each candidate is a separate request, each refinement a plain prompt.

    The engine must have no prefix cache.
    """

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        params = _stream(1.0 if n > 1 else 0.0, tokens, job.ignore_eos)
        results = engine.generate([prompt for prompt in prompts for _ in range(n)], params)
        return sum(len(c.token_ids) for result in results for c in result.completions)

    return do_job(job, generate, {})
