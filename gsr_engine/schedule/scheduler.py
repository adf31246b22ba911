"""Decides what each step computes (a `StepPlan`), and takes the tokens that the step drew."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

from gsr_engine.config import EngineConfig
from gsr_engine.errors import InvalidRequest, OutOfPages
from gsr_engine.kv.segments import Context, Segment, context_length, missing
from gsr_engine.outputs import NOT_FINITE, TopLogprobs
from gsr_engine.requests.prompt_scores import Score
from gsr_engine.requests.request import Group, GroupState, RequestState, Stream, StreamState
from gsr_engine.schedule.admission import Admission, AnyRequest
from gsr_engine.schedule.drafts import Drafts
from gsr_engine.schedule.memory import Memory
from gsr_engine.schedule.step_budget import StepBudget
from gsr_engine.step.plan import StepPlan

_MIN_DEADLINES = 64
"""A heap of deadlines this small is never tidied."""


class Scheduler:
    """Continuous batching: decode and prefill share every step under one token budget.

    Prompts of refinements go before those of new candidates, because they finish requests. A
    group computes everything that it reads and that is not computed: its prompt, but also KV that
    was lost to a preemption, an eviction or the end of another request.

    Attributes:
        finished: requests that reached their end since the list was last emptied.
        drafts: chooses what steps verify; None without lookup decoding.
    """

    def __init__(
        self,
        config: EngineConfig,
        memory: Memory,
        clock: Callable[[], float] = time.monotonic,
        drafts: Drafts | None = None,
    ) -> None:
        self.drafts = drafts
        self._budget = StepBudget(config.max_batch_tokens)
        self._memory = memory
        self._clock = clock
        self._admission = Admission(config, memory, clock)
        self._deadlines: list[tuple[float, int]] = []  # a heap of (deadline, arrival)
        self._timed: dict[int, AnyRequest] = {}  # by arrival
        self.finished: list[AnyRequest] = []

    @property
    def num_waiting(self) -> int:
        """Requests without pages: not admitted yet, or preempted."""
        return len(self._admission.waiting)

    @property
    def num_running(self) -> int:
        """Requests that are admitted and not finished."""
        return len(self._admission.running)

    @property
    def num_deadlines(self) -> int:
        """Deadlines that are watched, some of them of requests that ended."""
        return len(self._deadlines)

    @property
    def num_running_streams(self) -> int:
        """Streams that hold pages and generate."""
        return sum(1 for _ in self._admission.running_streams())

    @property
    def num_waiting_streams(self) -> int:
        """Streams that wait for pages: those of requests without pages, and paused ones.

        A request without pages counts with the most streams that it decodes at the same time.
        """
        streams = (stream for group in self._admission.groups() for stream in group.streams)
        paused = sum(stream.state is StreamState.WAITING for stream in streams)
        return self._admission.waiting.num_streams + paused

    @property
    def num_preemptions(self) -> int:
        """How often a request was preempted, or a stream of the oldest request paused."""
        return self._admission.num_preemptions

    def check(self) -> None:
        """Prove that every page is accounted for.

        Raises:
            PoolCorrupted: a page is not.
        """
        self._memory.check(self._admission.groups())

    def add(self, request: AnyRequest) -> None:
        """Queue a request; its size must have been checked against the whole pool.

        Raises:
            InvalidRequest: it was submitted before, here or elsewhere.
        """
        if request.state is not RequestState.NEW:
            raise InvalidRequest("request", f"was submitted before: it is {request.state.value}")
        request.submitted_at = self._clock()
        request.deadlines.count_from(request.submitted_at)
        self._admission.waiting.add(request)
        arrival = request.queue_position.arrival
        for moment in request.deadlines.moments:
            heapq.heappush(self._deadlines, (moment, arrival))
            self._timed[arrival] = request

    def plan(self) -> StepPlan:
        """Choose the chunks of the next step; an empty plan means that nothing is left to do."""
        self._expire()
        for request in self._admission.admit():
            # Some streams may have finished before it was preempted, or after that, by a token in
            # flight. Their request could not be notified then.
            self._settle(list(request.groups))
        # A prompt without streams may have been computed by a reader of it, in another's name.
        self._settle([g for g in self._admission.groups() if not g.streams and g.finished])
        self._grow()
        plan = StepPlan()
        unready: list[Group] = []
        prefilling = GroupState.PREFILLING
        for group in self._admission.groups():
            if group.state is prefilling and _is_computed(group):
                group.state = GroupState.DECODING
        if self.drafts is not None:
            plan.drafts = self._draft(self.drafts)
        for group in self._admission.groups():
            if group.state is prefilling or plan.decode(group):
                unready.append(group)
        unready.sort(key=lambda group: not group.is_refinement)
        for group in unready:
            self._prefill(group, plan)
        return plan

    def _grow(self) -> None:
        while True:
            try:
                self._admission.grow()
                return
            except OutOfPages as error:
                self.end(self._admission.running[0], str(error))

    def _draft(self, drafts: Drafts) -> dict[Segment, list[int]]:
        """The drafts of the streams that decode, as far as pages are free for them."""
        groups = [g for g in self._admission.groups() if g.state is GroupState.DECODING]
        streams = [s for group in groups if group.looks_up for s in group.streams if s.decodes]
        others = 0
        if streams:
            # All others count as if they decoded: some may draw their first token in this step.
            every = sum(not s.finished for g in self._admission.groups() for s in g.streams)
            others = every - len(streams)
        budget = self._budget.tokens - len(streams) - others
        if any(group.state is GroupState.PREFILLING for group in self._admission.groups()):
            budget //= 2  # what waits for its prompt goes on, too
        chosen: dict[Segment, list[int]] = {}
        wanted = drafts.choose(streams, others, budget)
        for stream, draft in wanted.items():
            # A page for each stream stays free, so that drafts cost nobody a page in the next step.
            room = self._memory.grow_if_free(stream, len(draft), len(streams) + others)
            if room:
                chosen[stream.segment] = draft[:room]
        if wanted and not chosen:
            drafts.wanted = False  # there is no page for any
        return chosen

    def _prefill(self, group: Group, plan: StepPlan) -> None:
        """Plan the tokens that a group lacks: of its context, its prompt, and its streams."""
        budget = self._budget.tokens
        if plan.num_tokens >= budget:
            return
        for segment, stop in missing(group.prompt.context):
            plan.prefill(group, segment, stop, budget, [])
        prompt = group.prompt
        # Only streams without a token draw from the prompt's last row: a drawn token is kept after
        # a preemption, and fed instead of drawn again.
        fresh = [s for s in group.streams if not s.num_drawn and not s.finished]
        if prompt.sources and not prompt.computed:
            self._copy(group, plan)
        if fresh and prompt.computed == len(prompt) and not group.open:
            plan.draw_again(group, fresh)  # a reader computed it, and drew nothing for this group
        plan.prefill(group, prompt, len(prompt), budget, fresh)
        for stream in group.streams:
            if stream.behind:
                stop = len(stream.segment)
                plan.prefill(group, stream.segment, stop, budget, [stream])

    def _copy(self, group: Group, plan: StepPlan) -> None:
        """Let a prompt begin with a copy of its sources, or wait for them, or do without."""
        prompt = group.prompt
        if all(span.computed and not span.segment.sources for span in prompt.sources):
            plan.copy(prompt, self._budget.tokens)
        elif any(span.segment in plan.planned for span in prompt.sources):
            plan.wait(prompt)  # this step computes them, or they wait themselves
        else:  # they are gone, or their writer does not come to them in this step
            prompt.sources = ()

    def launched(self, plan: StepPlan) -> None:
        """Note that a step was launched: every step planned from here on runs after it."""
        for chunk in plan.chunks:
            if chunk.segment in plan.copies:
                self._memory.copied(chunk.group, chunk.start)
            chunk.segment.computed = chunk.stop
        for _, stream in plan.draws:
            stream.in_flight += 1

    def plan_less(self, plan: StepPlan) -> bool:
        """Take a plan that the device had no memory for; returns whether a later one may fit.

        If steps cannot be smaller, the newest request is preempted until they can be whole again.
        """
        return self._budget.shrink(plan) or self._admission.preempt_newest()

    def commit(
        self,
        plan: StepPlan,
        tokens: list[int],
        logprobs: list[float],
        tops: list[TopLogprobs | None] | None = None,
        scores: Sequence[Score] = (),
    ) -> None:
        """Hand what a launched step drew and scored (the fields of `Draws`) to its requests."""
        if self._budget.grow():
            self._admission.readmit()
        touched = {chunk.group: None for chunk in plan.chunks if not chunk.decode}
        failed: dict[AnyRequest, str] = {}
        doubtful: list[Context] = []
        over: set[Stream] = set()  # the rest of what they drew was drawn in vain
        for group in self._take_scores(plan, scores):
            failed[group.request] = NOT_FINITE
            doubtful.append(group.context)
        drawn = zip(plan.draws, tokens, logprobs, tops or [None] * len(tokens), strict=True)
        chunks, isfinite = plan.chunks, math.isfinite
        for (row, stream), token, logprob, top in drawn:
            chunk = chunks[row]
            group = chunk.group
            stream.in_flight -= 1
            ended = stream.finish_reason is not None or group.request.finished
            if ended or (over and stream in over):
                continue  # it ended while the step ran, or its draft was wrong
            if not isfinite(logprob):
                failed[group.request] = NOT_FINITE
                doubtful.append(stream.segment.context)
                over.add(stream)
                continue
            if not chunk.decode:
                _prove(stream.segment.context)
            try:
                stream.append(token, logprob, top)
            except Exception as error:  # e.g. the tokenizer's, which looks for stop strings
                failed[group.request] = f"{type(error).__name__}: {error}"
                over.add(stream)
            if stream.finish_reason is not None:
                touched[group] = None
            elif plan.drafts and plan.refutes(chunk, token):
                over.add(stream)
        _cut(plan)
        self._end_failed(failed, doubtful)
        self._settle(touched)

    def _take_scores(self, plan: StepPlan, scores: Sequence[Score]) -> list[Group]:
        """Hand scores to the groups of their prompts; returns groups with some not finite."""
        following, spoilt = iter(scores), []
        for part in plan.scored:
            group, mine = plan.chunks[part.index].group, list(islice(following, len(part)))
            if group.scores is None or group.request.finished:
                continue  # it ended while the step ran
            if not group.scores.take(part.start, mine):
                spoilt.append(group)
            elif group.holds_pages and group.pin is None:
                self._memory.publish(group)
        return spoilt

    def _end_failed(self, failed: dict[AnyRequest, str], doubtful: list[Context]) -> None:
        """End requests whose draws failed, and forget KV that may be what spoilt them."""
        if doubtful:
            self._memory.forget(doubtful, list(self._admission.groups()))
        for request, reason in failed.items():
            self.end(request, reason)
        if doubtful:
            self._prefill_again()

    def fail(self, plan: StepPlan, later: Sequence[StepPlan], error: str) -> None:
        """Take a step without results: forget the KV that it wrote, and end its requests.

        So end the requests of `later` steps, launched already, that read this KV.
        """
        lost: set[Segment] = set()
        failed: dict[AnyRequest, None] = {}
        for step in (plan, *later):
            for chunk in step.chunks:
                segment = chunk.segment
                read = any(span.segment in lost for span in segment.reads)
                if step is plan or segment in lost or read:
                    lost.add(segment)
                    segment.forget(0 if segment in step.copies else chunk.start)
                    failed[chunk.group.request] = None
        for request in failed:
            self.end(request, error)
        self._prefill_again()

    def _prefill_again(self) -> None:
        """Let groups whose streams read KV that was forgotten compute it before they go on."""
        for group in self._admission.groups():
            if group.state is GroupState.DECODING and not _is_computed(group):
                group.state = GroupState.PREFILLING

    def _settle(self, groups: Iterable[Group]) -> None:
        """Notify requests of finished streams, free their pages, move finished groups on."""
        # Each notification may end the request, end siblings, start groups, or preempt others for
        # their pages. So whether the group still holds pages is asked again after every one.
        for group in groups:
            for stream in group.streams:
                if stream.state is StreamState.FINISHED and group.holds_pages:
                    stream.state = StreamState.SETTLED
                    notify = partial(group.request.stream_finished, group, stream)
                    self._follow(group.request, notify)
            if not group.holds_pages:
                continue  # finished, or preempted: then it is settled once it is admitted again
            for stream in group.streams:
                if not stream.needed and stream.holds_pages:
                    self._memory.note_peak(group.request)
                    if group.continued:
                        self._memory.cache_stream(group, stream)
                    self._memory.drop_stream(stream)
            if group.finished:
                self._finish(group)

    def _finish(self, group: Group) -> None:
        """Notify the request of a finished group, then free the group's pages."""
        request = group.request
        # The groups that follow hold what they read before this one frees it.
        self._follow(request, partial(request.group_finished, group))
        if request.state is RequestState.FINISHED:
            return  # the answer raised, which ended the request and freed everything
        self._admission.finish(group)
        if request.finished:
            self._retire(request)

    def _follow(self, request: AnyRequest, notify: Callable[[], list[Group]]) -> None:
        """Notify a request and start the groups that it answers with."""
        try:
            followers = notify()
        except Exception as error:  # it concerns this request only
            self.end(request, f"{type(error).__name__}: {error}")
        else:
            self._admission.start(request, followers)

    def forget_kv(self) -> None:
        """Drop all KV, of running requests and of cached prompts: it will be recomputed."""
        self._admission.preempt_all()
        if self._memory.cache:
            self._memory.cache.clear()

    def end(self, request: AnyRequest, error: str | None = None) -> None:
        """End a request at once, in any state: failed if `error` is given, else aborted.

        A request that is finished, or was never submitted here, is left as it is.
        """
        if request.finished or not self._admission.has(request):
            return
        try:
            request.end("error" if error else "abort", error)
        except (
            Exception
        ) as cause:  # its result cannot be put together: nobody else must fail for it
            request.fail(f"{error or 'aborted'}; {type(cause).__name__}: {cause}")
        self._retire(request)

    def _retire(self, request: AnyRequest) -> None:
        self._memory.note_peak(request)
        self._admission.retire(request)
        self._timed.pop(request.queue_position.arrival, None)
        if len(self._deadlines) > 4 * len(self._timed) + _MIN_DEADLINES:
            # A request has two deadlines at most: half of these or more are of some that ended.
            self._deadlines = [one for one in self._deadlines if one[1] in self._timed]
            heapq.heapify(self._deadlines)
        self.finished.append(request)

    def _expire(self) -> None:
        now = self._clock() if self._deadlines else 0.0
        while self._deadlines and self._deadlines[0][0] <= now:
            _, arrival = heapq.heappop(self._deadlines)
            request = self._timed.get(arrival)
            if request is None:  # it finished before its deadline
                continue
            try:
                request.expire(now)
            except Exception as error:  # its result cannot be put together
                self.end(request, f"{type(error).__name__}: {error}")
                continue
            if request.finished:
                self._retire(request)
            else:
                self._settle(list(request.groups))


def _cut(plan: StepPlan) -> None:
    """Forget the KV of the proposed tokens that were not drawn, and count those that were."""
    for chunk in plan.chunks[: plan.num_decodes] if plan.drafts else ():
        segment, proposed = chunk.segment, len(chunk) - 1
        if proposed:
            segment.forget(len(segment.token_ids) - 1)
            usage = chunk.group.request.usage.phase(chunk.group.phases[1])
            usage.tokens_proposed += proposed
            usage.tokens_accepted += max(0, segment.computed - chunk.start - 1)


def _prove(context: Context) -> None:
    """Note that a finite draw has read a context: whatever it copied is sound, too."""
    for span in context:
        segment = span.segment
        segment.proven = max(segment.proven, span.stop)
        if segment.sources and segment.proven >= context_length(segment.sources):
            segment.sources = ()


def _is_computed(group: Group) -> bool:
    """Whether a group's prompt is complete, and computed with everything that it reads."""
    if group.open or group.prompt.computed < len(group.prompt):
        return False
    return not any(missing(group.prompt.context))
