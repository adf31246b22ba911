"""Our side of `benchmarks.throughput`: linear, branched, and with sharing off."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.job import Job, JobResult, do_job
from gsr_engine import Engine, RefineResult, SamplingParams, SelfRefineParams
from gsr_engine.params import Layout
from gsr_engine.text.problem_prompts import ProblemPrompts

_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineWork:
    """selfRef@k of several problems at fixed lengths; see `Job`."""

    model: Path
    problems: Sequence[str]
    k: int
    candidate_tokens: int
    refine_tokens: int
    dtype: str
    threads: int
    kv_gib: float

    def engine(self, prefix_cache: bool = True) -> Engine:
        """A fresh engine for this work."""
        return Engine.from_pretrained(
            self.model, dtype=self.dtype, kv_cache_gib=self.kv_gib, prefix_cache=prefix_cache
        )

    def params(self, layout: Layout, tokens: int | None = None) -> SelfRefineParams:
        """The request; `tokens` instead of the work's own lengths."""
        return SelfRefineParams(
            k=self.k,
            layout=layout,
            candidate=_stream(1.0, tokens or self.candidate_tokens),
            refine=_stream(0.0, tokens or self.refine_tokens),
            seed=_SEED,
            summary_tokens=max(1000, self.candidate_tokens),
            cache_salt=layout,  # no layout finds the KV of the other
        )

    def job(self, engine: Engine, results: Sequence[RefineResult]) -> Job:
        """The same work for a peer, with the candidates of these results to refine."""
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
        )


def run_ours(work: RefineWork) -> tuple[Job, dict[str, JobResult]]:
    """The job for the peers, and this engine's own results by name."""
    found = {}
    with work.engine() as engine:
        found["linear"], results = end_to_end(engine, work, "linear")
        job = work.job(engine, results)
        found["branched"], _ = end_to_end(engine, work, "branched")
    with work.engine(prefix_cache=False) as engine:
        found["sharing off"] = sharing_off(engine, job)
    return job, found


def _stream(temperature: float, tokens: int) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=tokens, ignore_eos=True)


def end_to_end(
    engine: Engine, work: RefineWork, layout: Layout
) -> tuple[JobResult, list[RefineResult]]:
    """Do the work in one layout.

    Raises:
        ValueError: the number of generated tokens differs from the work's.
    """
    engine.self_refine([problem[::-1] for problem in work.problems], work.params(layout, tokens=2))
    start = time.perf_counter()
    results = engine.self_refine(work.problems, work.params(layout))
    seconds = time.perf_counter() - start
    tokens = sum(result.usage.completion_tokens for result in results)
    expected = len(work.problems) * (work.k * work.candidate_tokens + work.refine_tokens)
    if tokens != expected:
        raise ValueError(f"{tokens} tokens came, {expected} were asked for: {results[0].error}")
    # One problem refines while another still drafts, so seconds are the phases' shares by tokens.
    refining = sum(
        usage.seconds
        for result in results
        for phase, usage in result.usage.phases.items()
        if phase.startswith("refine")
    )
    outcome = JobResult(
        seconds_candidates=seconds - refining, seconds_refine=refining, tokens=tokens
    )
    return outcome, results


def sharing_off(engine: Engine, job: Job) -> JobResult:
    """Each candidate is a separate request, each refinement a plain prompt.

    The engine must have no prefix cache.
    """

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        params = _stream(1.0 if n > 1 else 0.0, tokens)
        results = engine.generate([prompt for prompt in prompts for _ in range(n)], params)
        return sum(len(c.token_ids) for result in results for c in result.completions)

    return do_job(job, generate, {})
