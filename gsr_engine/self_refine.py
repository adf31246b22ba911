"""The selfRef@k program of one problem: fork k candidates, collect, refine.

linear     problem ──┬─ candidate 1..k            (freed as they finish)
                     └─ the summaries and the instruction, read anew ── refinement
branched   problem ──── candidate 1..k ──── instruction ── refinement
                        (their KV is attended as it is; a summary that is only a part of its
                        candidate is first read again, right behind the problem)
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from gsr_engine.answers import find_answer
from gsr_engine.errors import InvalidRequest
from gsr_engine.generate import completion
from gsr_engine.gsr_config import GsrConfig
from gsr_engine.limits import Limits
from gsr_engine.outputs import FinishReason, Phase, RefineResult
from gsr_engine.params import SelfRefineParams
from gsr_engine.prompts import Prompts, Summary
from gsr_engine.refine_budget import plan_budget
from gsr_engine.segments import Segment, Span, context_length, first_tokens
from gsr_engine.sequence import Group, NewPrompt, Request, Sequence, derive_seed
from gsr_engine.stopping import StopRule
from gsr_engine.tokenizer import Tokenizer

_CANDIDATE: tuple[Phase, Phase] = ("candidate_prefill", "candidate_decode")
_REFINE: tuple[Phase, Phase] = ("refine_prefill", "refine_decode")
# First step of a seed's path: the phases draw different streams from one seed.
_CANDIDATE_SEED, _ORDER_SEED, _REFINE_SEED = range(3)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the program needs of a loaded checkpoint."""

    tokenizer: Tokenizer
    prompts: Prompts
    gsr: GsrConfig

    def text_and_answer(self, content: list[int], text: str) -> tuple[str, str | None]:
        """A solution's text without its thinking ("" if that has no end), and its answer.

        `text` is the completion's, which may go on into a token that a stop string cuts in two.
        """
        rest = text[len(self.tokenizer.decode(content)) :]
        summary = self.prompts.summary(content, max(1, len(content)))
        text = self.tokenizer.decode(summary.token_ids) + rest if summary else ""
        return text, find_answer(text, self.gsr.answer_pattern)


class SelfRefineRequest(Request[RefineResult]):
    """One problem on its way to a refined answer.

    `candidates` and `refinement` are the live streams: a caller that steps the engine itself can
    read what they hold so far. Candidates may be `given` as token ids, k of them; then none is
    generated, and in the branched layout they are read right behind the problem.

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
        self._problem = checkpoint.prompts.problem(problem)
        if not self._problem:
            raise InvalidRequest("problem", "is empty")
        self._direct = checkpoint.prompts.direct(self._problem)
        limits.check_prompt("problem", self._direct.token_ids)
        if given is not None:
            longest = max(1, *map(len, given))
            params = replace(
                params, candidate=replace(params.candidate, max_tokens=longest, min_tokens=0)
            )
        self._budget = plan_budget(params, self._problem, checkpoint.prompts, limits)
        super().__init__(params.k, params.priority)
        self._params = params
        self._seed = seed
        self._checkpoint = checkpoint
        self._limits = limits
        self._given = given
        self._direct_group: Group | None = None
        self._used: list[int] = []
        self.candidates: list[Sequence] = []
        self.refinement: Sequence | None = None

    def start(self, new_prompt: NewPrompt) -> list[Group]:
        """One group: the direct prompt and the k candidates, unless these were given."""
        salt = self._params.cache_salt
        prompt = new_prompt(self._direct.token_ids, salt)
        group = self._direct_group = Group(self, prompt, _CANDIDATE, salt=salt)
        reused = context_length(prompt.context)
        if self._given is None:
            reused += (self._params.k - 1) * len(self._direct.token_ids)
        self.usage.phase("candidate_prefill").tokens_reused = reused
        if self._given is not None:
            self.candidates = [self._given_candidate(i, ids) for i, ids in enumerate(self._given)]
            return [group]
        seeds = [derive_seed(self._seed, _CANDIDATE_SEED, i) for i in range(self._params.k)]
        params = self._budget.candidate
        keep = self._params.layout == "branched"
        group.fork(params, seeds, StopRule.of(params, self._checkpoint.tokenizer), keep)
        self.candidates = group.sequences
        return [group]

    def _given_candidate(self, index: int, token_ids: list[int]) -> Sequence:
        params = self._budget.candidate
        return Sequence(index, params, 0, frozenset(), Segment(token_ids), finish_reason="given")

    def group_finished(self, group: Group) -> list[Group]:
        """From the candidates to the refinement, from the refinement to the result."""
        if group is self._direct_group:
            return self._refine(group)
        if group.sequences:
            self._finish(error=None)
        return []

    def _refine(self, direct: Group) -> list[Group]:
        summaries: dict[int, Summary] = {}
        for sequence in self.candidates:
            content = sequence.segment.token_ids[: sequence.span_length]
            summary = self._checkpoint.prompts.summary(content, self._budget.summary_tokens)
            if summary is not None:
                summaries[sequence.index] = summary
        if len(summaries) < self._params.min_candidates:
            self._finish(
                error=f"{len(summaries)} of {self._params.k} candidates are usable, "
                f"min_candidates is {self._params.min_candidates}"
            )
            return []
        layout = self._linear if self._params.layout == "linear" else self._branched
        rereads, prompt = layout(direct, summaries)
        reread = sum(len(group.prompt) for group in rereads)
        self.usage.phase("refine_prefill").tokens_reused = context_length(prompt.context) - reread
        return [*rereads, self._fork_refinement(prompt)]

    def _linear(self, direct: Group, summaries: dict[int, Summary]) -> tuple[list[Group], Segment]:
        """The problem's span is reused; everything after it is the new segment's own."""
        self._used = list(summaries)
        random.Random(derive_seed(self._seed, _ORDER_SEED)).shuffle(self._used)
        shown = [summaries[index].token_ids for index in self._used]
        token_ids = self._checkpoint.prompts.linear(self._problem, shown)
        shared = self._direct.problem_stop
        context = first_tokens(direct.context, shared)
        return [], Segment(token_ids[shared:], position=shared, context=context)

    def _branched(
        self, direct: Group, summaries: dict[int, Summary]
    ) -> tuple[list[Group], Segment]:
        """The context is the direct prompt and a span per candidate; only the glue is new."""
        self._used = list(summaries)
        problem, fork = direct.context, direct.prompt.end_position
        rereads, spans = [], []
        for index, summary in summaries.items():
            whole = summary.start == 0 or self._checkpoint.gsr.candidate_kv == "as_generated"
            if summary.verbatim and whole and self._given is None:
                span = Span(self.candidates[index].segment, summary.start, summary.stop)
            else:
                segment = Segment(summary.token_ids, position=fork, context=problem)
                rereads.append(Group(self, segment, _REFINE))
                span = Span(segment, 0, len(segment))
            spans.append(span)
        glue = self._checkpoint.prompts.branched_glue(self._problem)
        longest = max(span.segment.position + span.stop for span in spans)
        position = self._checkpoint.prompts.branched_position(fork, len(glue), longest)
        return rereads, Segment(glue, position, context=(*problem, *spans))

    def _fork_refinement(self, prompt: Segment) -> Group:
        group = Group(self, prompt, _REFINE)
        room = self._limits.max_model_len - prompt.end_position
        params = replace(
            self._budget.refine, max_tokens=min(room, self._budget.refine.max_tokens or room)
        )
        seed = derive_seed(self._seed, _REFINE_SEED, 0)
        group.fork(params, [seed], StopRule.of(params, self._checkpoint.tokenizer))
        self.refinement = group.sequences[0]
        return group

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """The result as far as it got."""
        for stream in (*self.candidates, *([self.refinement] if self.refinement else [])):
            stream.end(reason)
        self._finish(error or "aborted")

    def _finish(self, error: str | None) -> None:
        tokenizer = self._checkpoint.tokenizer
        candidates = [completion(sequence, tokenizer) for sequence in self.candidates]
        text, answer, refinement = "", None, None
        if self.refinement is not None:
            refinement = completion(self.refinement, tokenizer)
            text, answer = self._checkpoint.text_and_answer(refinement.content_ids, refinement.text)
        streams = [] if self._given is not None else list(self.candidates)
        if self.refinement is not None:
            streams.append(self.refinement)
        self.usage.prompt_tokens = len(self._direct.token_ids)
        self.usage.completion_tokens = sum(len(stream.segment) for stream in streams)
        self.result = RefineResult(
            text=text,
            answer=answer,
            refinement=refinement,
            candidates=candidates,
            used=self._used,
            usage=self.usage,
            error=error,
        )
