"""The prompts of one round of refinements: from finished solutions to the segments that read them.

linear     problem ──┬─ candidate 1..k            (freed as they finish)
                     └─ the summaries and the instruction, read again ── refinement
branched   problem ──── candidate 1..k ──── instruction ── refinement
                        (their KV is attended where it was written; a summary that is only a part
                        of its candidate, and what an earlier refinement wrote, is first read again
                        right behind the problem)
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

    `in_place`: its KV may be attended where it was written.
    """

    stream: Stream
    summary: Summary
    in_place: bool


class RefinePrompts:
    """Builds the prompts of one round behind the direct prompt of a problem.

    Attributes:
        rereads: groups that read summaries again; they go before their readers.
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
        """The problem's span is reused; everything after it is the new segment's own."""
        segment = self.opening()
        for solution in shown:
            segment.token_ids += self._prompts.linear_candidate(solution.summary.token_ids)
        self.close(segment)
        return segment

    def opening(self) -> Segment:
        """A linear prompt without candidates, to be continued."""
        shared = self._direct.problem_stop
        token_ids = self._prompts.linear_opening(self._problem)[shared:]
        context = first_tokens(self._group.context, shared)
        return Segment(token_ids, position=shared, context=context)

    def close(self, segment: Segment) -> None:
        """Append what ends a linear prompt."""
        segment.token_ids += self._prompts.linear_closing(self._problem)

    def branched(self, shown: list[ShownSolution]) -> Segment:
        """The context is the direct prompt and a span per solution; only the glue is new."""
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
        if stream not in self._reread:  # several refinements of a round read it once
            fork, context = self._group.prompt.end_position, self._group.context
            segment = Segment(summary.token_ids, position=fork, context=context)
            self.rereads.append(Group(self._group.request, segment, REFINE))
            self._reread[stream] = Span(segment, 0, len(segment))
        return self._reread[stream]
