"""The prompts of one round of refinements: from finished solutions to the segments that read them.

    linear     problem ──┬─ candidate 1..k            (freed as they finish)
                         └─ summaries and instruction ── refinement

    branched   problem ──── candidate 1..k ──── instruction ── refinement

In the linear layout the summaries are prefilled again. In the branched layout the refinement
attends to the candidates' KV in place. Some solutions cannot be read in place; they are first
prefilled again, right behind the problem:

- summaries that are only a part of their candidate, unless `candidate_kv` is "as_generated";
- summaries from which control tokens were dropped;
- given candidates, and solutions of earlier refinements.

The last token of a candidate that was cut has no KV. It is prefilled behind the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.kv.prefix_cache import PIECE
from gsr_engine.kv.segments import Context, Segment, Span, first_tokens
from gsr_engine.outputs import Phase
from gsr_engine.requests.request import Group, Stream
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Summary

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

    Args:
        problem: the prompts of the problem.
        group: the direct prompt.
        num_prompts: how many prompts the round has.

    Attributes:
        rereads: groups that prefill what several prompts read, or what cannot be read in place;
            they must come before their readers.
        beginning: what all linear prompts of the round begin with behind the direct prompt; None
            if there is a single prompt, or if this is so short that each computes it.
    """

    def __init__(self, problem: ProblemPrompts, group: Group, num_prompts: int = 1) -> None:
        self._problem = problem
        self._group = group
        self._num_prompts = num_prompts
        self._reread: dict[Stream, list[Span]] = {}
        self.rereads: list[Group] = []
        self.beginning: Span | None = None

    def linear(self, shown: list[ShownSolution]) -> Segment:
        """A linear prompt: the problem's span is reused, all tokens after it are new."""
        k = len(shown)
        segment = self.opening(k)
        if self._num_prompts > 1 and len(segment) >= PIECE:
            segment = self._behind(segment)
        self.close(segment, shown, k)
        return segment

    def opening(self, k: int) -> Segment:
        """The beginning of a linear prompt of k candidates, up to the first one."""
        shared = self._problem.problem_stop(k)
        context = first_tokens(self._group.context, shared)
        return Segment(self._problem.opening(k)[shared:], position=shared, context=context)

    def _behind(self, opening: Segment) -> Segment:
        """A linear prompt that reads its opening, which the prompts of the round share."""
        if self.beginning is None:
            self.beginning = self._prefill(opening.token_ids, opening.position, opening.context)
        context = (*opening.context, self.beginning)
        return Segment([], opening.end_position, context)

    def append(self, segment: Segment, solution: ShownSolution, number: int, k: int) -> None:
        """Append a candidate, counted from 1, to a linear prompt that was opened for k."""
        between = self._problem.between(number - 1, k) if number > 1 else []
        segment.token_ids += [*between, *solution.summary.token_ids]

    def close(self, segment: Segment, shown: list[ShownSolution], k: int) -> None:
        """Append what a linear prompt lacks, the opening of the answer last.

        `k` is for how many candidates it was opened; they may have become fewer.
        """
        whole = self._problem.linear([solution.summary.token_ids for solution in shown], k)
        segment.token_ids += whole[segment.position + len(segment.token_ids) :]

    def branched(self, shown: list[ShownSolution]) -> Segment:
        """A branched prompt: its context is the direct prompt and a span per solution.

        Only the glue (the instruction and the turns around it) is new.
        """
        spans = [span for solution in shown for span in self._spans(solution)]
        longest = max(span.segment.position + span.stop for span in spans)
        position = self._problem.branched_position(self._group.prompt.end_position, longest)
        glue = list(self._problem.branched_glue)
        return Segment(glue, position, context=(*self._group.context, *spans))

    def _spans(self, solution: ShownSolution) -> list[Span]:
        """The spans of one solution; what they lack is prefilled once, for all its readers."""
        stream = solution.stream
        if stream not in self._reread:
            in_place = solution.in_place and solution.summary.verbatim
            find = self._in_place if in_place else self._read_again
            self._reread[stream] = find(stream, solution.summary)
        return self._reread[stream]

    def _in_place(self, stream: Stream, summary: Summary) -> list[Span]:
        written = min(summary.stop, stream.span_length)
        spans = [Span(stream.segment, summary.start, written)] if written > summary.start else []
        if written < summary.stop:
            behind = [Span(stream.segment, 0, written)] if written else []
            position = stream.segment.position + written
            last = stream.segment.token_ids[written : summary.stop]
            spans.append(self._prefill(last, position, (*self._group.context, *behind)))
        return spans

    def _read_again(self, stream: Stream, summary: Summary) -> list[Span]:
        fork = self._group.prompt.end_position
        return [self._prefill(summary.token_ids, fork, self._group.context)]

    def _prefill(self, token_ids: list[int], position: int, context: Context) -> Span:
        segment = Segment(token_ids, position, context)
        self.rereads.append(Group(self._group.request, segment, REFINE))
        return Span(segment, 0, len(segment))
