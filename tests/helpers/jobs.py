"""Requests without a tokenizer or a model, and the rooms that hold and schedule them."""

from __future__ import annotations

from itertools import count
from typing import Any, cast

from gsr_engine.config import EngineConfig
from gsr_engine.kv.page_pool import PagePool
from gsr_engine.kv.prefix_cache import PrefixCache
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.outputs import FinishReason, Phase
from gsr_engine.params import SamplingParams
from gsr_engine.requests.request import Group, NewPrompt, Request, Stream
from gsr_engine.schedule.admission import Admission
from gsr_engine.schedule.memory import Memory
from gsr_engine.schedule.scheduler import Scheduler
from gsr_engine.step.plan import StepPlan
from gsr_engine.text.stopping import StopRule

END, WORD = 0, 1
CANDIDATE: tuple[Phase, Phase] = ("candidate_prefill", "candidate_decode")
REFINE: tuple[Phase, Phase] = ("refine_prefill", "refine_decode")
STOP = StopRule({END: None}, (), cast("Any", None))  # no stop strings: no tokenizer is used
_first_token = count(100)


class Job(Request[str]):
    """One prompt of `prompt` tokens and its streams; the result is how it ended."""

    def __init__(
        self,
        prompt: int = PAGE_SIZE,
        streams: int = 1,
        *,
        priority: int = 0,
        refining: bool = False,
        max_tokens: int = 1000,
        token_ids: list[int] | None = None,
        most_pages: int = 0,
    ) -> None:
        super().__init__(streams, most_pages=most_pages, priority=priority)
        # A prompt of its own: no two jobs begin alike unless they are given the same tokens.
        self.prompt_ids = token_ids or [next(_first_token)] * prompt
        self.params = SamplingParams(max_tokens=max_tokens)
        self.phases = REFINE if refining else CANDIDATE

    def start(self, new_prompt: NewPrompt) -> list[Group]:
        group = Group(self, new_prompt(self.prompt_ids, ""), self.phases, salt="")
        group.fork(self.params, list(range(self.num_streams)), STOP)
        return [group]

    def group_finished(self, group: Group) -> list[Group]:
        self.result = "done"
        return []

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        for stream in self.streams:
            stream.end(reason)
        self.result = error or reason

    def fail(self, error: str) -> None:
        self.result = error

    @property
    def streams(self) -> list[Stream]:
        return [stream for group in self.groups for stream in group.streams]


def new_memory(pages: int) -> Memory:
    pool = PagePool(pages)
    return Memory(pool, PrefixCache(pool))


def new_admission(pages: int, *jobs: Job) -> tuple[Admission, Memory]:
    """An admission over a pool, with some jobs waiting."""
    memory = new_memory(pages)
    admission = Admission(EngineConfig(), memory, clock=lambda: 0.0)
    for job in jobs:
        admission.waiting.add(job)
    return admission, memory


def new_scheduler(*jobs: Job, pages: int = 100, **options: Any) -> Scheduler:
    scheduler = Scheduler(EngineConfig(**options), new_memory(pages), clock=lambda: 0.0)
    for job in jobs:
        scheduler.add(job)
    return scheduler


def run_step(scheduler: Scheduler, token: int = WORD, logprob: float = -1.0) -> StepPlan:
    """Plan a step and commit it as if every draw had given the same token."""
    plan = scheduler.plan()
    scheduler.launched(plan)
    scheduler.commit(plan, [token] * len(plan.draws), [logprob] * len(plan.draws))
    scheduler.check()
    return plan


def write(job: Job, num_tokens: int) -> None:
    """Let every stream of a job have that many tokens, as if they had been drawn."""
    for stream in job.streams:
        while len(stream.segment) < num_tokens:
            stream.append(WORD, -1.0)
