"""The selfRef@k program of one problem: fork k candidates, collect, refine, round by round."""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from dataclasses import replace

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import Segment, context_length
from gsr_engine.outputs import FinishReason, Phase, RefineResult
from gsr_engine.params import SelfRefineParams
from gsr_engine.requests.limits import Limits
from gsr_engine.requests.refine_budget import plan_budget
from gsr_engine.requests.refine_round import REFINE, RefinePrompts, Source
from gsr_engine.requests.request import Group, NewPrompt, Request, Stream, completion
from gsr_engine.seeds import derive_seed
from gsr_engine.text.answers import majority, normalise
from gsr_engine.text.prompts import Checkpoint
from gsr_engine.text.stopping import StopRule

_CANDIDATE: tuple[Phase, Phase] = ("candidate_prefill", "candidate_decode")
# First step of a seed's path: the phases draw different streams from one seed.
_CANDIDATE_SEED, _ORDER_SEED, _REFINE_SEED = range(3)


def warn_beyond_evidence(params: SelfRefineParams, gsr: GsrConfig) -> None:
    """Warn, once for each text, of what the literature found to gain little or to harm."""
    found = []
    if params.most_shown > 10:
        found.append(
            f"a refinement reads {params.most_shown} solutions: GSR (arXiv 2509.00084) gains "
            "nothing beyond 10, one step of RSA (2509.26626) nothing beyond 4"
        )
    if params.widths and not gsr.trained:
        found.append(
            "several rounds with a checkpoint that was not trained to refine: an untrained model "
            "got worse with every round (ParaGator, arXiv 2603.18886)"
        )
    elif params.widths:
        found.append(
            "more than one round: models trained for one (GSR) were not measured with more; RSA "
            "and PaCoRe (arXiv 2601.05593), which gain from rounds, were trained for them"
        )
    elif not gsr.trained:
        found.append(
            "the checkpoint has no gsr.json: refinement that was not trained for is about as good "
            "as a majority vote, or worse (GSR, arXiv 2509.00084)"
        )
    for text in found:
        warnings.warn(text, stacklevel=4)


class SelfRefineRequest(Request[RefineResult]):
    """One problem on its way to a refined answer.

    `rounds` holds the live streams: the candidates, then the refinements of every round that has
    begun; a caller that steps the engine itself can read what they hold so far. Candidates may be
    `given` as token ids, k of them; then none is generated, and in the branched layout they are
    read right behind the problem.

    Raises:
        InvalidRequest: the problem is empty or too long, the pool is too small, or the checkpoint
            was not trained for the layout.
    """

    def __init__(
        self,
        problem: str,
        params: SelfRefineParams,
        seed: int,
        checkpoint: Checkpoint,
        limits: Limits,
        given: list[list[int]] | None = None,
    ) -> None:
        trained = checkpoint.gsr.layouts
        if params.layout not in trained and not params.force_layout:
            raise InvalidRequest(
                "layout",
                f"the checkpoint was not trained for {params.layout!r} (gsr.json claims "
                f"{', '.join(trained)}); force_layout=True tries it all the same",
            )
        if given is None:
            limits.check_streams("k", params.k)
        for width in params.widths:
            limits.check_streams("widths", width)
        limits.check_streams("refinements", params.refinements)
        self._problem = checkpoint.prompts.problem(problem)
        if not self._problem:
            raise InvalidRequest("problem", "is empty")
        self._direct = checkpoint.prompts.direct(self._problem)
        limits.check_prompt("problem", self._direct.token_ids)
        if given is not None:
            longest = max(1, *map(len, given))
            drawn = replace(params.candidate, max_tokens=longest, min_tokens=0)
            params = replace(params, candidate=drawn)
        self._budget = plan_budget(params, self._problem, checkpoint.prompts, limits)
        super().__init__(max(params.k, *params.round_widths), params.priority)
        if params.deadline is not None:
            self.deadline = time.monotonic() + params.deadline
        self._params = params
        self._seed = seed
        self._checkpoint = checkpoint
        self._limits = limits
        self._given = given
        self._direct_group = Group(self, Segment([]), _CANDIDATE, salt=params.cache_salt)
        self._filling: Group | None = None  # the linear prompt that takes candidates as they finish
        self._expired = False
        self._unfinished = 0  # groups of the round that go on
        self._shown: list[list[int]] = []  # what each refinement of the last round reads
        self.rounds: list[list[Stream]] = []

    @property
    def candidates(self) -> list[Stream]:
        """The streams of the candidates; none before the request is admitted."""
        return self.rounds[0] if self.rounds else []

    @property
    def refinement(self) -> Stream | None:
        """The first stream of the last round, once that has begun."""
        begun = len(self.rounds) == 1 + len(self._params.round_widths)
        return self.rounds[-1][0] if begun else None

    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """One group: the direct prompt and the k candidates, unless these were given."""
        params, group = self._budget.candidate, self._direct_group
        group.prompt = new_prompt(self._direct.token_ids, self._params.cache_salt)
        phase = self.usage.phase("candidate_prefill")
        phase.reused_cache = context_length(group.prompt.context)
        if self._given is None:
            phase.reused_prompt = (self._params.k - 1) * len(self._direct.token_ids)
            seeds = [derive_seed(self._seed, _CANDIDATE_SEED, i) for i in range(self._params.k)]
            keep = self._params.layout == "branched"
            group.fork(params, seeds, StopRule.of(params, self._checkpoint.tokenizer), keep)
            self.rounds.append(group.streams)
        else:
            self.rounds.append(
                [
                    Stream(i, params, 0, frozenset(), Segment(ids), finish_reason="given")
                    for i, ids in enumerate(self._given)
                ]
            )
        return [group]

    def stream_finished(self, group: Group, stream: Stream) -> list[Group]:
        """A candidate is there: show it if they are shown as they come, stop the rest if enough
        of them agree.
        """
        if group is not self._direct_group:
            return []
        if self._agreed():
            for other in group.streams:
                other.end("abort")
        source = self._source(stream)
        if source is None or not source.in_place:
            stream.keep = False  # nothing will read its pages
        if self._params.order != "as_finished" or source is None:
            return []
        started = []
        if self._filling is None:
            self._filling = Group(self, self._round().opening(), REFINE, open=True)
            self._shown = [[]]
            started = [self._filling]
        self._shown[0].append(stream.index)
        piece = self._checkpoint.prompts.linear_candidate(source.summary.token_ids)
        self._filling.prompt.token_ids += piece
        return started

    def _agreed(self) -> bool:
        if not self._params.agreement:
            return False
        answers: Counter[str] = Counter()
        for stream in self.candidates:
            if stream.finish_reason == "stop":
                solution = completion(stream, self._checkpoint.tokenizer)
                answer = self._checkpoint.text_and_answer(solution)[1]
                if answer is not None:
                    answers[normalise(answer)] += 1
        return max(answers.values(), default=0) >= self._params.agreement

    def group_finished(self, group: Group) -> list[Group]:
        """From one round to the next, from the last to the result."""
        if group is self._direct_group:
            return self._next_round()
        if not group.streams:
            return []
        self._unfinished -= 1
        if self._unfinished:
            return []
        if len(self.rounds) <= len(self._params.round_widths):
            return self._next_round()
        self._finish(error=None)
        return []

    def _next_round(self) -> list[Group]:
        sources: dict[int, Source] = {}
        for stream in self.rounds[-1]:
            source = self._source(stream)
            if source is not None:
                sources[stream.index] = source
        least = self._params.min_candidates if len(self.rounds) == 1 else 1
        if len(sources) < least:
            self._finish(
                error=f"{len(sources)} of {len(self.rounds[-1])} candidates are usable, "
                f"min_candidates is {least}"
            )
            return []
        return self._close(self._filling) if self._filling else self._refine(sources)

    def _source(self, stream: Stream) -> Source | None:
        """What of a finished stream is shown; None if nothing is, or it was left out."""
        dropped = stream.finish_reason == "abort" and not self._expired
        content = stream.segment.token_ids[: max(0, stream.span_length)]
        whole = self._params.view == "full"
        summary = self._checkpoint.prompts.summary(content, self._budget.summary_tokens, whole)
        if dropped or summary is None:
            return None
        generated = self._given is None and len(self.rounds) == 1
        as_it_is = summary.start == 0 or self._checkpoint.gsr.candidate_kv == "as_generated"
        in_place = self._params.layout == "branched" and generated and as_it_is
        return Source(stream, summary, in_place and summary.verbatim)

    def _round(self) -> RefinePrompts:
        prompts = self._checkpoint.prompts
        return RefinePrompts(prompts, self._problem, self._direct, self._direct_group)

    def _refine(self, sources: dict[int, Source]) -> list[Group]:
        """The groups of the next round: one prompt for all who read the same, else one each."""
        step = len(self.rounds) - 1
        width = self._params.round_widths[step]
        subset = self._params.subset
        picks = width if subset is not None and subset < len(sources) else 1
        self._shown = [self._pick(list(sources), step, i) for i in range(picks)]
        builder = self._round()
        readers, streams = [], []
        build = builder.linear if self._params.layout == "linear" else builder.branched
        for index, pick in enumerate(self._shown):
            prompt = build([sources[i] for i in pick])
            group = Group(self, prompt, REFINE)
            begin, count = (index, 1) if picks > 1 else (0, width)
            self._fork(group, step, begin, count)
            readers.append(group)
            streams += group.streams
        for index, stream in enumerate(streams):
            stream.index = index
        self._count_reuse(builder.rereads, readers)
        self._unfinished = len(readers)
        self.rounds.append(streams)
        return [*builder.rereads, *readers]

    def _pick(self, indices: list[int], step: int, place: int) -> list[int]:
        subset = self._params.subset
        path = (_ORDER_SEED, step, place) if step or place else (_ORDER_SEED,)
        rng = random.Random(derive_seed(self._seed, *path))
        if subset is not None and subset < len(indices):
            indices = sorted(rng.sample(indices, subset))
        if self._params.order == "shuffled" and self._params.layout == "linear":
            rng.shuffle(indices)
        return indices

    def _fork(self, group: Group, step: int, begin: int, count: int) -> None:
        room = self._limits.max_model_len - group.prompt.end_position
        params = replace(
            self._budget.refine, max_tokens=min(room, self._budget.refine.max_tokens or room)
        )
        seeds = [
            derive_seed(self._seed, _REFINE_SEED, i, *([step] if step else []))
            for i in range(begin, begin + count)
        ]
        group.fork(params, seeds, StopRule.of(params, self._checkpoint.tokenizer))

    def _count_reuse(self, rereads: list[Group], readers: list[Group]) -> None:
        phase = self.usage.phase("refine_prefill")
        phase.reused_candidates -= sum(len(group.prompt) for group in rereads)
        direct = {span.segment for span in self._direct_group.context}
        for group in readers:
            phase.reused_prompt += (len(group.streams) - 1) * len(group.prompt)
            for span in group.prompt.context:
                if span.segment in direct:
                    phase.reused_prompt += len(span)
                else:
                    phase.reused_candidates += len(span)

    def _close(self, group: Group) -> list[Group]:
        """The last candidate is in the prompt: end it and let the refinements begin."""
        self._round().close(group.prompt)
        group.open = False
        self._fork(group, 0, 0, self._params.refinements)
        self._count_reuse([], [group])
        self._unfinished = 1
        self.rounds.append(group.streams)
        return [group]

    def expire(self) -> None:
        """Stop the candidates; what they have is shown as it stands."""
        self._expired = True
        if not self.rounds:
            self._finish(error="the deadline passed before the request was admitted")
        elif len(self.rounds) == 1:
            for stream in self.candidates:
                stream.end("abort")

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """The result as far as it got."""
        for stream in (stream for streams in self.rounds for stream in streams):
            stream.end(reason)
        self._finish(error or "aborted")

    def _finish(self, error: str | None) -> None:
        tokenizer = self._checkpoint.tokenizer
        every = [[completion(stream, tokenizer) for stream in streams] for streams in self.rounds]
        candidates, rounds = (every[0], every[1:]) if every else ([], [])
        text, answer, refinement, used = "", None, None, []
        if self.refinement is not None:
            solutions = [self._checkpoint.text_and_answer(c) for c in rounds[-1]]
            best = majority([found for _, found in solutions]) or 0
            refinement, (text, answer) = rounds[-1][best], solutions[best]
            used = self._shown[best if len(self._shown) > 1 else 0]
        generated = self.rounds if self._given is None else self.rounds[1:]
        self.usage.prompt_tokens = len(self._direct.token_ids)
        self.usage.completion_tokens = sum(len(s.segment) for streams in generated for s in streams)
        self.result = RefineResult(
            text=text,
            answer=answer,
            refinement=refinement,
            candidates=candidates,
            used=used,
            rounds=rounds,
            usage=self.usage,
            error=error,
        )
