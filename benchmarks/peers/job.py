"""The job of a peer and its result. Every peer imports this: standard library only."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """selfRef@k of several problems at fixed lengths; end tokens are ignored.

    Attributes:
        model: checkpoint folder.
        dtype: to compute in, "float32" or "bfloat16".
        threads: to compute with.
        k: candidates per problem, sampled at temperature 1.
        prompts: token ids that the candidates of each problem continue.
        candidate_tokens: tokens of a candidate.
        refine_prompts: token ids of each problem's linear refinement prompt, continued greedily.
        refine_tokens: tokens of a refinement.
        kv_gib: memory for keys and values.
    """

    model: str
    dtype: str
    threads: int
    k: int
    prompts: list[list[int]]
    candidate_tokens: int
    refine_prompts: list[list[int]]
    refine_tokens: int
    kv_gib: float = 4.0

    @property
    def num_streams(self) -> int:
        """Candidates of all problems."""
        return self.k * len(self.prompts)

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        refined = len(self.refine_prompts) * self.refine_tokens
        return self.num_streams * self.candidate_tokens + refined

    @property
    def longest(self) -> int:
        """Tokens of the longest context."""
        return max(
            max(map(len, self.prompts)) + self.candidate_tokens,
            max(map(len, self.refine_prompts)) + self.refine_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """Seconds of both phases, the generated tokens, and facts about the engine."""

    seconds_candidates: float
    seconds_refine: float
    tokens: int
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Over both phases."""
        return self.tokens / (self.seconds_candidates + self.seconds_refine)


Generate = Callable[[list[list[int]], int, int], int]
"""(prompts, streams of each, tokens of each stream) to the number of tokens generated.

One stream per prompt is greedy; several are sampled at temperature 1.
"""


def do_job(job: Job, generate: Generate, facts: dict[str, str]) -> JobResult:
    """Time both phases of a job.

    Raises:
        ValueError: `generate` returned another number of tokens than the job's.
    """
    # The warm-up compiles and allocates at the job's own batch sizes. Its prompts are others,
    # because a prefix cache would find the job's prompts later.
    generate([prompt[::-1] for prompt in job.prompts], job.k, 2)
    start = time.perf_counter()
    candidates = generate(job.prompts, job.k, job.candidate_tokens)
    middle = time.perf_counter()
    refined = generate(job.refine_prompts, 1, job.refine_tokens)
    end = time.perf_counter()
    if candidates + refined != job.tokens:
        raise ValueError(f"{candidates} + {refined} tokens came, {job.tokens} were asked for")
    return JobResult(
        seconds_candidates=middle - start,
        seconds_refine=end - middle,
        tokens=job.tokens,
        facts=facts,
    )


def read_job(file: Path) -> Job:
    """A job from its JSON."""
    return Job(**json.loads(file.read_text(encoding="utf-8")))


def write_json(file: Path, value: Any) -> None:
    """Write a job or a result as JSON."""
    file.write_text(json.dumps(asdict(value)), encoding="utf-8")


def read_result(file: Path) -> JobResult:
    """A result from its JSON."""
    return JobResult(**json.loads(file.read_text(encoding="utf-8")))


def serve(run: Callable[[Job], JobResult]) -> None:
    """The main function of a peer: `python -m <peer> job.json result.json`."""
    job, result = map(Path, sys.argv[1:3])
    write_json(result, run(read_job(job)))
