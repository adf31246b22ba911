"""What a refinement reads in either layout, and what of it is computed: one rule each."""

from __future__ import annotations

import random
from functools import cache

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.demo.report import NANO
from gsr_engine.kv.segments import Segment, context_length
from gsr_engine.params import SamplingParams
from gsr_engine.requests.orders import ORDERS
from gsr_engine.requests.refine_prompts import RefinePrompts, ShownSolution
from gsr_engine.requests.request import Group, Stream
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Prompts, Summary
from tests.helpers.jobs import CANDIDATE, STOP, Job

END = 2


@cache
def prompts() -> Prompts:
    return Prompts(Tokenizer.from_folder(NANO), GsrConfig.from_folder(NANO))


class Round:
    """A problem, its candidates as they were generated, and the prompts of what refines them."""

    def __init__(self, *candidates: list[int]) -> None:
        self.problem = ProblemPrompts(prompts(), "1 * 2")
        self.group = Group(Job(), Segment(self.problem.direct), CANDIDATE)
        self.group.fork(SamplingParams(max_tokens=99), list(range(len(candidates))), STOP)
        for stream, tokens in zip(self.group.streams, candidates, strict=True):
            stream.segment.token_ids += [*tokens, END]
            stream.end("stop")
        self.builder = RefinePrompts(self.problem, self.group)

    def shown(self, limit: int = 1000) -> list[ShownSolution]:
        """All candidates, of each the last `limit` tokens."""
        solutions = []
        for stream in self.group.streams:
            summary = prompts().summary(stream.segment.token_ids[:-1], limit)
            assert summary
            solutions.append(ShownSolution(stream, summary, in_place=summary.start == 0))
        return solutions


def whole(segment: Segment) -> list[int]:
    """All tokens that the last token of a prompt sees."""
    return [t for span in segment.context for t in span.token_ids] + segment.token_ids


def test_linear_reuses_the_problem_and_reads_everything_else() -> None:
    one = Round([20, 21], [22])
    segment = one.builder.linear(one.shown())
    assert context_length(segment.context) == segment.position == one.problem.problem_stop(2)
    assert whole(segment) == one.problem.linear([[20, 21], [22]])


def test_branched_reads_nothing_again_but_the_instruction() -> None:
    one = Round([20, 21], [22])
    segment = one.builder.branched(one.shown())
    assert segment.token_ids == one.problem.branched_glue
    assert whole(segment) == [*one.problem.direct, 20, 21, 22, *segment.token_ids]
    assert not one.builder.rereads


def test_a_part_of_a_candidate_is_read_again_right_behind_the_problem() -> None:
    one = Round([20, 21, 22])
    segment = one.builder.branched(one.shown(limit=2))
    (reread,) = one.builder.rereads
    assert reread.prompt.token_ids == [21, 22]
    assert reread.prompt.position == len(one.problem.direct)
    assert segment.context[-1].segment is reread.prompt


def test_the_last_token_of_a_cut_candidate_is_computed_behind_it() -> None:
    """It was drawn, but never fed, so it has no KV; the rest is read in place."""
    one = Round([20, 21, 22], [23])
    for stream in one.group.streams:
        stream.segment.token_ids.pop()
        stream.finish_reason = "length"
    shown = [
        ShownSolution(stream, Summary(list(stream.segment.token_ids), 0, len(stream.segment)), True)
        for stream in one.group.streams
    ]
    segment = one.builder.branched(shown)
    fork = len(one.problem.direct)
    assert whole(segment) == [*one.problem.direct, 20, 21, 22, 23, *segment.token_ids]
    first, second = (reread.prompt for reread in one.builder.rereads)
    assert (first.token_ids, first.position) == ([22], fork + 2)
    assert whole(first) == [*one.problem.direct, 20, 21, 22]
    assert (second.token_ids, second.position) == ([23], fork)


def test_several_refinements_read_a_part_again_once() -> None:
    one = Round([20, 21, 22])
    for _ in range(3):
        one.builder.branched(one.shown(limit=2))
    assert len(one.builder.rereads) == 1


def test_after_is_behind_the_longest_candidate() -> None:
    """Where nano's refinement begins, as its gsr.json says."""
    one = Round([20] * 7, [21])
    assert prompts().gsr.refine_position == "after"
    assert one.builder.branched(one.shown()).position == len(one.problem.direct) + 7


def test_orders_change_no_solution() -> None:
    solutions = Round(*([token] for token in range(20, 30))).shown()
    for name, order in ORDERS.items():
        ordered = order(solutions, random.Random(0))
        assert sorted(map(_index, ordered)) == list(range(10))
        assert (ordered == solutions) == (name == "as_generated")


def _index(solution: ShownSolution) -> int:
    stream: Stream = solution.stream
    return stream.index
