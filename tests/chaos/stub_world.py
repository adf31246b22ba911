"""An engine over the stub model: every token that is ever drawn is judged."""

from __future__ import annotations

import random
from typing import Any

from gsr_engine import GenerateResult
from gsr_engine.kv.segments import Segment
from gsr_engine.schedule.admission import AnyRequest
from tests.chaos.actions import Fault
from tests.chaos.engine_world import EngineWorld, streams_of
from tests.chaos.stub_runner import Contents, StubRunner, draw, score
from tests.helpers.drafts import SPECULATION

MOST_ROWS = 12
"""Streams of one request that decode at the same time, at most."""


class StubWorld(EngineWorld):
    """See `World`. The stub checks every read, so a wrong page is found where it is read."""

    faults: tuple[Fault, ...] = ("launch", "transfer", "nan", "nan", "interrupt", "memory")

    def __init__(self, pages: int, lag: int = 0, **options: Any) -> None:
        self.runner = StubRunner(pages, lag)
        super().__init__(self.runner, StubRunner(400, 0), **options)

    @classmethod
    def random(cls, seed: int) -> StubWorld:
        """A world with a random pool, cache and token budget."""
        rng = random.Random(seed)
        return cls(
            lag=rng.choice((0, 1)),
            pages=rng.choice((32, 36, 40, 60, 200)),
            prefix_cache=rng.random() < 0.8,
            max_batch_tokens=rng.choice((40, 50, 200)),
            speculative_config=rng.choice(SPECULATION),
        )

    def fault(self, kind: Fault, rng: random.Random) -> None:
        if kind == "memory":
            self.runner.scarce(rng.randrange(1, 30), rng.randrange(MOST_ROWS, 40))
            return
        self.runner.fault, self.runner.fault_row = kind, rng.randrange(100)

    def judge(self, request: AnyRequest) -> None:
        """A request alone would have drawn the same tokens, as far as it got."""
        contents = Contents()
        for stream in streams_of(request):
            if stream.finish_reason != "given":
                for count, token in enumerate(stream.segment.token_ids):
                    assert token == draw(contents.before(stream.segment, count), stream.seed)
        if isinstance(request.result, GenerateResult):
            judge_scores(request.result)


def judge_scores(result: GenerateResult) -> None:
    """The tokens of a prompt have their scores, each once; all of them if a token was drawn."""
    found = result.prompt_logprobs
    if result.params.prompt_logprobs is None:
        assert found is None
    elif found is None:
        assert result.error is not None  # the books were cut off
    else:
        prompt = Segment(result.prompt_token_ids)
        seen = zip(Contents().of(prompt), prompt.token_ids[1:], strict=False)
        expected = [None, *(score(value, token) for value, token in seen)]
        assert found.logprobs == expected[: len(found.logprobs)]
        drawn = any(one.token_ids for one in result.completions)
        assert len(found.logprobs) == len(expected) or result.error is not None or not drawn
