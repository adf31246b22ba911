"""The job of a peer and its result. Every peer imports this: standard library only."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

_FIRST_MARK = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """selfRef@k of several problems at fixed lengths.

    Attributes:
        model: checkpoint folder.
        dtype: to compute in, "float32" or "bfloat16".
        threads: to compute with.
        k: candidates per problem, sampled at temperature 1.
        prompts: token ids that the candidates of each problem continue.
        candidate_tokens: tokens of a candidate.
        refine_prompts: token ids of each problem's linear refinement prompt, continued greedily.
        refine_tokens: tokens of a refinement.
        kv_gib: memory for keys and values on a CPU; of a GPU an engine takes its default.
        device: to compute on, "cpu" or "cuda".
        ignore_eos: how lengths are fixed: end tokens are ignored, or they are never drawn.
        quantization: "int8" for the engine's own 8 bits with its own defaults, KV included; None
            for weights and KV in `dtype`.
        texts: token ids of contexts, of one length, whose loss is asked for.
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
    device: str = "cpu"
    ignore_eos: bool = True
    quantization: str | None = None
    texts: list[list[int]] = field(default_factory=list)

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
            *map(len, self.texts),
        )

    def marked(self, run: int) -> Job:
        """The same job with another first token in every prompt, by the number of the run.

        A prefix cache then finds what an earlier phase of this run computed, and nothing of
        earlier runs.
        """
        mark = _FIRST_MARK + run
        return replace(
            self,
            prompts=[[mark, *prompt[1:]] for prompt in self.prompts],
            refine_prompts=[[mark, *prompt[1:]] for prompt in self.refine_prompts],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """Seconds of both phases, the generated tokens, and facts about the engine.

    `loss` is the mean loss over the job's texts; None if there are none, or the engine tells none.
    """

    seconds_candidates: float
    seconds_refine: float
    tokens: int
    facts: dict[str, str] = field(default_factory=dict)
    loss: float | None = None

    @property
    def seconds(self) -> float:
        """Of both phases: until the answers are there."""
        return self.seconds_candidates + self.seconds_refine

    @property
    def tokens_per_second(self) -> float:
        """Over both phases."""
        return self.tokens / self.seconds


Generate = Callable[[list[list[int]], int, int], int]
"""(prompts, streams of each, tokens of each stream) to the number of tokens generated.

One stream per prompt is greedy; several are sampled at temperature 1.
"""

Loss = Callable[[list[list[int]]], float]
"""Contexts of one length to the mean loss of the next token."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that is ready, facts about it, and its loss if it can tell."""

    generate: Generate
    facts: dict[str, str]
    loss: Loss | None = None


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


def answer_lines(answer: Callable[[dict[str, Any]], Any]) -> None:
    """The main function of a peer: each line of stdin is an order, each line written a result.

    Both are JSON: the order the fields of a job, the result those of a dataclass. Results go to the
    descriptor whose number is the command's argument, because libraries print to stdout.
    """
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # the caller waits until it is closed
    answers = os.fdopen(descriptor, "w", encoding="utf-8")
    for line in sys.stdin:
        print(json.dumps(asdict(answer(json.loads(line)))), file=answers, flush=True)


def serve(load: Callable[[Job], Loaded]) -> None:
    """The main function of an engine that does jobs: the first one loads it.

    Later jobs differ from the first in their token ids alone. The loss is measured behind what is
    timed.
    """
    loaded: list[Loaded] = []

    def answer(order: dict[str, Any]) -> JobResult:
        job = Job(**order)
        if not loaded:
            loaded.append(load(job))
        engine = loaded[0]
        result = do_job(job, engine.generate, engine.facts)
        loss = engine.loss(job.texts) if engine.loss and job.texts else None
        return replace(result, loss=loss)

    answer_lines(answer)
