"""The prompts of one round of refinements: from finished solutions to the segments that read them.

    linear     problem ──┬─ candidate 1..k            (freed as they finish)
                         └─ summaries and instruction ── refinement

    branched   problem ──── candidate 1..k ──── instruction ── refinement

In the linear layout the summaries are prefilled again. In the branched layout the refinement
attends to the candidates' KV in place. Some solutions cannot be read in place; they are first
prefilled again, right behind the problem:

- summaries that are only a part of their candidate, unless `candidate_kv` is "as_generated";
- summaries from which special tokens were dropped;
- given candidates, and solutions of earlier refinements.
"""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.kv.segments import Segment, Span, first_tokens
from gsr_engine.outputs import Phase
from gsr_engine.requests.request import Group, Stream
from gsr_engine.text.prompts import DirectPrompt, Prompts, Summary

REFINE: tuple[Phase, Phase] = ("refine_prefill", "refine_decode")


@dataclass(frozen=True, slots=True)
class ShownSolution:
    """A solution of the round before, and the part of it that is shown.

    `in_place` says whether a refinement may attend to its KV where it was written.
    """

    stream: Stream
    summary: Summary
    in_place: bool


class RefinePrompts:
    """Builds the prompts of one round behind the direct prompt of a problem.

    Attributes:
        rereads: groups that prefill summaries again; they must come before their readers.
    """

    def __init__(
        self, prompts: Prompts, problem: list[int], direct: DirectPrompt, group: Group
    ) -> None:
        self._prompts = prompts
        self._problem = problem
        self._direct = direct
        self._group = group
        self._reread: dict[Stream, Span] = {}
        self.rereads: list[Group] = []

    def linear(self, shown: list[ShownSolution]) -> Segment:
        """A linear prompt: the problem's span is reused, all tokens after it are new."""
        segment = self.opening()
        for solution in shown:
            segment.token_ids += self._prompts.linear_candidate(solution.summary.token_ids)
        self.close(segment)
        return segment

    def opening(self) -> Segment:
        """The beginning of a linear prompt, up to its first candidate."""
        shared = self._direct.problem_stop
        token_ids = self._prompts.linear_opening(self._problem)[shared:]
        context = first_tokens(self._group.context, shared)
        return Segment(token_ids, position=shared, context=context)

    def close(self, segment: Segment) -> None:
        """Append the end of a linear prompt: the instruction and the opening of the answer."""
        segment.token_ids += self._prompts.linear_closing(self._problem)

    def branched(self, shown: list[ShownSolution]) -> Segment:
        """A branched prompt: its context is the direct prompt and a span per solution.

        Only the glue (the instruction and the turns around it) is new.
        """
        spans = [self._span(solution) for solution in shown]
        glue = self._prompts.branched_glue(self._problem)
        longest = max(span.segment.position + span.stop for span in spans)
        fork = self._group.prompt.end_position
        position = self._prompts.branched_position(fork, len(glue), longest)
        return Segment(glue, position, context=(*self._group.context, *spans))

    def _span(self, solution: ShownSolution) -> Span:
        stream, summary = solution.stream, solution.summary
        if solution.in_place and summary.verbatim:
            return Span(stream.segment, summary.start, summary.stop)
        if stream not in self._reread:  # prefilled once, even if several refinements read it
            fork, context = self._group.prompt.end_position, self._group.context
            segment = Segment(summary.token_ids, position=fork, context=context)
            self.rereads.append(Group(self._group.request, segment, REFINE))
            self._reread[stream] = Span(segment, 0, len(segment))
        return self._reread[stream]
