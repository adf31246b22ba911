"""The selfRef@k program of one problem: fork k candidates, collect, refine, round by round."""

from __future__ import annotations

import random
from dataclasses import replace

from gsr_engine.kv.segments import Segment, context_length
from gsr_engine.outputs import (
    ABORTED,
    TIMED_OUT,
    TOO_FEW_USABLE,
    FinishReason,
    Phase,
    RefineResult,
)
from gsr_engine.params import SelfRefineParams
from gsr_engine.requests import refine_checks
from gsr_engine.requests.deadlines import Deadlines
from gsr_engine.requests.early_stop import EarlyStop
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.orders import ORDERS
from gsr_engine.requests.refine_budget import plan_budget
from gsr_engine.requests.refine_prompts import REFINE, RefinePrompts, ShownSolution
from gsr_engine.requests.request import Group, NewPrompt, Request, Stream, completion
from gsr_engine.seeds import derive_seed
from gsr_engine.text.answers import majority
from gsr_engine.text.problem_prompts import Problem, ProblemPrompts
from gsr_engine.text.prompts import Prompts
from gsr_engine.text.stopping import StopRule

_CANDIDATE: tuple[Phase, Phase] = ("candidate_prefill", "candidate_decode")
# First step of a seed's path: the phases draw different streams from one seed.
_CANDIDATE_SEED, _ORDER_SEED, _REFINE_SEED = range(3)


class SelfRefineRequest(Request[RefineResult]):
    """The request for selfRef@k of one problem.

    Candidates may be `given` as token ids, k of them; then none is generated. In the branched
    layout given candidates are prefilled right behind the problem.

    Attributes:
        problem: its prompts.
        rounds: the live streams: the candidates, then the refinements of every round that has
            begun. A caller that steps the engine itself can read what they hold so far.

    Raises:
        InvalidRequest: the problem is empty or too long, the pool is too small, the checkpoint
            was not trained for the layout, or the template lacks what is asked of it.
    """

    def __init__(
        self,
        problem: Problem,
        params: SelfRefineParams,
        seed: int,
        prompts: Prompts,
        limits: Limits,
        given: list[list[int]] | None = None,
    ) -> None:
        prompts = prompts.templated(params.template).varied(params.chat_template_kwargs)
        refine_checks.check_layout(params, prompts.gsr)
        refine_checks.check_answers(params, prompts.gsr)
        refine_checks.check_streams(params, limits, generates=given is None)
        self.problem = ProblemPrompts(prompts, problem)
        limits.check_prompt("problem", self.problem.direct)
        self._stops = [
            StopRule.of(sampling, prompts.tokenizer)
            for sampling in (params.candidate, params.refine)
        ]
        drawn = params.candidate
        if given is not None:
            refine_checks.check_generates(params)
            longest = max(1, *map(len, given))
            drawn = replace(drawn, max_tokens=longest, min_tokens=0)
        self._budget = plan_budget(
            replace(params, candidate=drawn), self.problem, limits, generates=given is None
        )
        num_candidates = params.k if given is None else 0  # given ones are not decoded
        most_streams = max(num_candidates, *params.round_widths)
        super().__init__(most_streams, self._budget.most_pages, params.priority)
        self.deadlines = Deadlines(params.timeout, params.candidate_timeout)
        self._params = params
        self._seed = seed
        self._prompts = prompts
        self._limits = limits
        self._given = given
        # A candidate repeats little of its problem: lookups there found less than they cost.
        self._direct_group = Group(
            self, Segment([]), _CANDIDATE, salt=params.cache_salt, looks_up=False
        )
        self._filling: Group | None = None  # the linear prompt that grows as candidates finish
        self._written: list[ShownSolution] = []  # the candidates in it so far
        self._early_stop = EarlyStop(params)
        self._num_stopped = 0  # candidates that it stopped
        self._candidates_expired = False
        self._unfinished = 0  # unfinished groups of the current round
        self._read: list[list[list[int]]] = []  # as `RefineResult.read`
        self._shortened: set[Stream] = set()  # shown with fewer tokens than asked for
        self.rounds: list[list[Stream]] = []

    @property
    def params(self) -> SelfRefineParams:
        """What it was made with, with numbers for None in `candidate` and `refine`."""
        return self._params

    @property
    def prompt(self) -> list[int]:
        """The token ids that candidates continue."""
        return self.problem.direct

    @property
    def candidates(self) -> list[Stream]:
        """The streams of the candidates; empty before the request is admitted."""
        return self.rounds[0] if self.rounds else []

    @property
    def refinement(self) -> Stream | None:
        """The first stream of the last round, once that has begun."""
        begun = len(self.rounds) == 1 + len(self._params.round_widths)
        return self.rounds[-1][0] if begun else None

    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """One group: the direct prompt and the k candidates, without them if they were given."""
        params, group = self._budget.candidate, self._direct_group
        group.prompt = new_prompt(self.problem.direct, self._params.cache_salt)
        phase = self.usage.phase("candidate_prefill")
        phase.reused_cache = context_length(group.prompt.context)
        if self._given is None:
            phase.reused_prompt = (self._params.k - 1) * len(self.problem.direct)
            seeds = [derive_seed(self._seed, _CANDIDATE_SEED, i) for i in range(self._params.k)]
            keep = self._params.layout == "branched"
            group.fork(params, seeds, self._stops[0], keep)
            self.rounds.append(group.streams)
        else:
            self.rounds.append([Stream.given(i, params, ids) for i, ids in enumerate(self._given)])
        return [group]

    def stream_finished(self, group: Group, stream: Stream) -> list[Group]:
        """Handle a finished candidate.

        Stops the other candidates once enough of them finished or agree. With order "as_finished"
        it writes the candidate into the refinement prompt.
        """
        if group is not self._direct_group:
            return []
        solution = self._solution(stream)
        if self._enough(stream, shows=solution is not None):
            running = [other for other in group.streams if not other.finished]
            self._num_stopped += len(running)
            for other in running:
                other.end("abort")
        if solution is None or not solution.in_place:
            stream.keep = False  # nothing will read its pages
        if self._params.order != "as_finished" or solution is None:
            return []
        return self._fill(solution)

    def _fill(self, solution: ShownSolution) -> list[Group]:
        """Append a solution to the prompt that grows while others decode; the first opens it."""
        started = []
        if self._filling is None:
            self._filling = Group(
                self, self._refine_prompts().opening(self._params.k), REFINE, open=True
            )
            self._read.append([[]])
            started = [self._filling]
        self._written.append(solution)
        prompt, number = self._filling.prompt, len(self._written)
        self._refine_prompts().append(prompt, solution, number, self._params.k)
        self._read[-1][0].append(solution.stream.index)
        return started

    def _enough(self, stream: Stream, shows: bool) -> bool:
        """Whether, with this one, enough candidates have ended by themselves."""
        if not self._early_stop.wanted or stream.finish_reason != "stop":
            return False
        answer = None
        if self._params.agreement:
            written = completion(stream, self._prompts.tokenizer)
            answer = self._prompts.text_and_answer(written)[1]
        return self._early_stop.enough(stream.index, shows, answer)

    def group_finished(self, group: Group) -> list[Group]:
        """Start the next round after the last group of a round; after the last round, finish."""
        if group is self._direct_group:
            return self._next_round()
        if not group.streams:  # a reread: its readers were started with it
            return []
        self._unfinished -= 1
        if self._unfinished:
            return []
        if len(self.rounds) <= len(self._params.round_widths):
            return self._next_round()
        self._finish(error=None)
        return []

    def _next_round(self) -> list[Group]:
        solutions = [s for stream in self.rounds[-1] if (s := self._solution(stream)) is not None]
        least = self._params.min_candidates if len(self.rounds) == 1 else 1
        if len(solutions) < least:
            self._finish(
                error=f"{len(solutions)} of {len(self.rounds[-1])} {TOO_FEW_USABLE}, "
                f"min_candidates is {least}"
            )
            return []
        return self._close(self._filling) if self._filling else self._refine(solutions)

    def _solution(self, stream: Stream) -> ShownSolution | None:
        """The part of a finished stream that is shown; None if it is left out or has no text."""
        # An aborted candidate was stopped because others are enough, and is left out. When their
        # time is over all are aborted, and shown as far as they got.
        dropped = stream.finish_reason == "abort" and not self._candidates_expired
        content = stream.segment.token_ids[: stream.content_length]
        whole = self._params.view == "full"
        summary = self._prompts.summary(content, self._budget.summary_tokens, whole)
        if dropped or summary is None:
            return None
        if self._budget.summary_tokens < self._params.summary_tokens:
            asked = self._prompts.summary(content, self._params.summary_tokens, whole)
            if asked is not None and asked.start < summary.start:
                self._shortened.add(stream)
        # In place: candidates that this request generated, if the checkpoint was trained to see a
        # summary's KV as generated, or if the summary is the whole candidate.
        generated = self._given is None and len(self.rounds) == 1
        as_it_is = summary.start == 0 or self._prompts.gsr.candidate_kv == "as_generated"
        in_place = self._params.layout == "branched" and generated and as_it_is
        return ShownSolution(stream, summary, in_place and summary.verbatim)

    def _refine_prompts(self, num_prompts: int = 1) -> RefinePrompts:
        return RefinePrompts(self.problem, self._direct_group, num_prompts)

    def _refine(self, solutions: list[ShownSolution]) -> list[Group]:
        """The groups of the next round: one shared prompt, or one per refinement with subsets."""
        round_index = len(self.rounds) - 1
        width = self._params.round_widths[round_index]
        subset = self._params.subset
        # Without subsets every refinement reads all solutions: one prompt, forked `width` times.
        num_prompts = width if subset is not None and subset < len(solutions) else 1
        picks = [self._pick(solutions, round_index, i) for i in range(num_prompts)]
        self._read.append([[solution.stream.index for solution in pick] for pick in picks])
        prompts = self._refine_prompts(num_prompts)
        build = prompts.linear if self._params.layout == "linear" else prompts.branched
        readers, streams = [], []
        for index, pick in enumerate(picks):
            group = Group(self, build(pick), REFINE)
            begin, count = (index, 1) if num_prompts > 1 else (0, width)
            self._fork(group, round_index, begin, count)
            readers.append(group)
            streams += group.streams
        for index, stream in enumerate(streams):
            stream.index = index
        self._count_reuse(prompts, readers)
        self._unfinished = len(readers)
        self.rounds.append(streams)
        # Writers before readers: the summaries that are prefilled again come first.
        return [*prompts.rereads, *readers]

    def _pick(
        self, solutions: list[ShownSolution], round_index: int, prompt_index: int
    ) -> list[ShownSolution]:
        """The solutions that one prompt shows: a subset of them, in the prompt's order."""
        subset = self._params.subset
        # The first prompt of the first round has the short path: its seed, and so its order, is
        # the same with and without further rounds and prompts.
        path = (round_index, prompt_index) if round_index or prompt_index else ()
        rng = random.Random(derive_seed(self._seed, _ORDER_SEED, *path))
        if subset is not None and subset < len(solutions):
            chosen = sorted(rng.sample(range(len(solutions)), subset))
            solutions = [solutions[i] for i in chosen]
        if self._params.layout == "branched":
            return solutions  # all candidates have the same positions, so order has no effect
        return ORDERS[self._params.order](solutions, rng)

    def _fork(self, group: Group, round_index: int, begin: int, count: int) -> None:
        """Add refinements `begin` to `begin + count - 1` of a round to a group."""
        room = self._limits.max_model_len - group.prompt.end_position
        params = replace(
            self._budget.refine, max_tokens=min(room, self._budget.refine.max_tokens or room)
        )
        seeds = [
            derive_seed(self._seed, _REFINE_SEED, i, *([round_index] if round_index else []))
            for i in range(begin, begin + count)
        ]
        group.fork(params, seeds, self._stops[1])

    def _count_reuse(self, prompts: RefinePrompts, readers: list[Group]) -> None:
        """Count the tokens whose KV the groups of a round share instead of recomputing."""
        phase = self.usage.phase("refine_prefill")
        problem = {span.segment for span in self._direct_group.context}
        # Rereads are computed once; their readers below count them as reused, so subtract them.
        phase.reused_candidates -= sum(len(group.prompt) for group in prompts.rereads)
        if prompts.beginning is not None:  # of no candidate, but of the prompt
            problem.add(prompts.beginning.segment)
            phase.reused_candidates += len(prompts.beginning)
            phase.reused_prompt -= len(prompts.beginning)
        for group in readers:
            phase.reused_prompt += (len(group.streams) - 1) * len(group.prompt)
            for span in group.prompt.context:
                if span.segment in problem:
                    phase.reused_prompt += len(span)
                else:
                    phase.reused_candidates += len(span)

    def _close(self, group: Group) -> list[Group]:
        """End the growing prompt after its last candidate, and fork the refinements."""
        prompts = self._refine_prompts()
        prompts.close(group.prompt, self._written, self._params.k)
        group.open = False
        self._fork(group, 0, 0, self._params.refinements)
        self._count_reuse(prompts, [group])
        self._unfinished = 1
        self.rounds.append(group.streams)
        return [group]

    def stop_candidates(self) -> None:
        """Stop the candidates; the refinement reads them as far as they got."""
        self._candidates_expired = True
        if not self.rounds:
            self._finish(error="the candidate timeout passed before the request was admitted")
        elif len(self.rounds) == 1:
            for stream in self.candidates:
                stream.end("abort")

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Set the result from the tokens so far."""
        for stream in (stream for streams in self.rounds for stream in streams):
            stream.end(reason)
        if reason == "timeout":
            first = self.refinement  # no other has tokens before it
            begun = first is not None and len(first.segment) > 0
            error = None if begun else f"{TIMED_OUT} of the refinement"
        else:
            error = error or ABORTED
        self._finish(error)

    def fail(self, error: str) -> None:
        """Set a result without solutions."""
        self.result = RefineResult.failed(error, self.usage, self._params)

    def _finish(self, error: str | None) -> None:
        tokenizer = self._prompts.tokenizer
        every = [[completion(stream, tokenizer) for stream in streams] for streams in self.rounds]
        candidates, rounds = (every[0], every[1:]) if every else ([], [])
        text, answer, refinement, used = "", None, None, []
        if self.refinement is not None:
            solutions = [self._prompts.text_and_answer(c) for c in rounds[-1]]
            best = majority([found for _, found in solutions]) or 0
            refinement, (text, answer) = rounds[-1][best], solutions[best]
            last = self._read[-1]  # of a single prompt if all refinements share it
            used = last[best if len(last) > 1 else 0]
        generated = self.rounds if self._given is None else self.rounds[1:]
        self.usage.prompt_tokens = len(self.problem.direct)
        self.usage.completion_tokens = sum(len(s.segment) for streams in generated for s in streams)
        self.result = RefineResult(
            text=text,
            answer=answer,
            refinement=refinement,
            candidates=candidates,
            used=used,
            read=self._read,
            rounds=rounds,
            usage=self.usage,
            params=self._params,
            error=error,
            summary_tokens=self._budget.summary_tokens,
            num_shortened=len(self._shortened),
            num_stopped=self._num_stopped,
        )
