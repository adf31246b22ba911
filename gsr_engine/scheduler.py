"""Decides what each step computes: state in, `StepPlan` out; then takes the drawn tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gsr_engine.config import EngineConfig
from gsr_engine.segments import PagePool, Segment
from gsr_engine.sequence import Group, Request, Sequence

AnyRequest = Request[Any]


@dataclass(slots=True)  # not frozen: thousands are made per second, and that costs three times more
class Chunk:
    """Tokens `[start, stop)` of a segment that one step computes.

    `decode` marks the next token of a stream; every other chunk is prefill.
    """

    group: Group
    segment: Segment
    start: int
    stop: int
    decode: bool

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class StepPlan:
    """One step.

    Attributes:
        chunks: what is computed, in row order.
        draws: (index of a chunk, who draws a token from its last row), in order of the chunks.
        shares: (group, whether it decodes, its tokens): the cost of the step by group.
        num_tokens: tokens of all chunks.
    """

    chunks: list[Chunk] = field(default_factory=list)
    draws: list[tuple[int, Sequence]] = field(default_factory=list)
    shares: list[tuple[Group, bool, int]] = field(default_factory=list)
    num_tokens: int = 0

    def count(self, group: Group, is_decode: bool, tokens: int) -> None:
        """Book the tokens of a group's chunks."""
        self.shares.append((group, is_decode, tokens))
        self.num_tokens += tokens


class Scheduler:
    """Continuous batching: decode and prefill share every step under one token budget.

    A request is admitted, in order of arrival, when the pages that it may need at most are
    unreserved; within the admitted, refinements are prefilled before new candidates, because
    they finish requests.
    """

    def __init__(self, config: EngineConfig, pool: PagePool) -> None:
        self._config = config
        self._pool = pool
        self._waiting: deque[AnyRequest] = deque()
        self._running: list[AnyRequest] = []
        self._groups: list[Group] = []
        self._reserved_pages = 0
        self._reserved_streams = 0

    @property
    def num_waiting(self) -> int:
        """Requests that are not admitted yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that are admitted and not finished."""
        return len(self._running)

    def check(self) -> None:
        """Prove that every page is accounted for by the groups that run.

        Raises:
            PoolCorrupted: it is not.
        """
        owners = [group.prompt for group in self._groups]
        for group in self._groups:
            owners += [s.segment for s in group.sequences if group.keep or not s.finished]
        self._pool.check(owners, [group.prompt.context for group in self._groups])

    def add(self, request: AnyRequest) -> None:
        """Queue a request; its size was checked against the whole pool before."""
        self._waiting.append(request)

    def plan(self) -> StepPlan:
        """Choose the chunks of the next step; an empty plan means that nothing is left to do."""
        self._admit()
        plan = StepPlan()
        prefills: list[Group] = []
        for group in self._groups:
            if group.prefilled:
                self._plan_decode(group, plan)
            else:
                prefills.append(group)
        # A request's later groups (refinements) finish it, so they go before new candidates.
        prefills.sort(key=lambda group: group.phases[0] != "refine_prefill")
        written: set[Segment] = set()
        for group in prefills:
            self._plan_prefill(group, plan, written)
        return plan

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            pages = self._reserved_pages + request.pages_needed
            streams = self._reserved_streams + request.num_streams
            if self._running and (
                pages > self._pool.num_pages or streams > self._config.max_num_seqs
            ):
                return
            self._waiting.popleft()
            self._reserved_pages, self._reserved_streams = pages, streams
            self._running.append(request)
            self._start(request.start())

    def _start(self, groups: list[Group]) -> None:
        # Prompts get all their pages now, so that a later group of the list can hold spans of
        # an earlier one before it is computed.
        for group in groups:
            self._pool.acquire(group.prompt.context)
            self._pool.grow(group.prompt, len(group.prompt))
        self._groups.extend(groups)

    def _plan_decode(self, group: Group, plan: StepPlan) -> None:
        living = [s for s in group.sequences if s.finish_reason is None]
        for sequence in living:
            segment = sequence.segment
            stop = len(segment.token_ids)
            self._pool.grow(segment, stop)
            plan.draws.append((len(plan.chunks), sequence))
            plan.chunks.append(Chunk(group, segment, stop - 1, stop, decode=True))
        plan.count(group, True, len(living))

    def _plan_prefill(self, group: Group, plan: StepPlan, written: set[Segment]) -> None:
        """Add what the token budget leaves of a group's prompt.

        A layer writes all KV of the step before it reads any, so a prompt may follow a segment
        that the same step completes.
        """
        prompt = group.prompt
        ready = all(span.computed or span.segment in written for span in prompt.context)
        size = min(len(prompt) - prompt.computed, self._config.max_batch_tokens - plan.num_tokens)
        if not ready or size <= 0:
            return
        stop = prompt.computed + size
        if stop == len(prompt):
            written.add(prompt)
            plan.draws.extend((len(plan.chunks), sequence) for sequence in group.sequences)
        plan.chunks.append(Chunk(group, prompt, prompt.computed, stop, decode=False))
        plan.count(group, False, size)

    def commit(self, plan: StepPlan, tokens: list[int], logprobs: list[float]) -> list[AnyRequest]:
        """Take what a step computed and drew; return the requests that it finished."""
        ending: dict[int, Group] = {}
        for chunk in plan.chunks:
            chunk.segment.computed = chunk.stop
            if not chunk.decode and not chunk.group.sequences:
                ending[id(chunk.group)] = chunk.group
        for (row, sequence), token, logprob in zip(plan.draws, tokens, logprobs, strict=True):
            sequence.append(token, logprob)
            if sequence.finish_reason is not None:
                group = plan.chunks[row].group
                ending[id(group)] = group
                if not group.keep:
                    self._pool.free(sequence.segment)
        done = [group for group in ending.values() if group.finished]
        return self._finish(done) if done else []

    def _finish(self, done: list[Group]) -> list[AnyRequest]:
        finished = []
        for group in done:
            request = group.request
            self._start(request.group_finished(group))  # acquires what it reads, before it is freed
            self._pool.release(group.prompt.context)
            self._pool.free(group.prompt)
            if group.keep:
                for sequence in group.sequences:
                    self._pool.free(sequence.segment)
            if request.finished:
                finished.append(request)
                self._running.remove(request)
                self._reserved_pages -= request.pages_needed
                self._reserved_streams -= request.num_streams
        gone = set(map(id, done))
        self._groups = [group for group in self._groups if id(group) not in gone]
        return finished
