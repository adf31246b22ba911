"""An engine without a model: what is left is the host's work."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from gsr_engine import Engine, EngineConfig
from gsr_engine.attention.sharing import Sharing
from gsr_engine.demo.report import NANO
from gsr_engine.execution.graphs import GraphCounts
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.sampler import Draws
from gsr_engine.model.weights import Renewal
from gsr_engine.schedule.drafts import StepCosts
from gsr_engine.step.plan import StepPlan


class _Drawn(NamedTuple):
    """Draws that are there at once."""

    draws: Draws

    def wait(self) -> Draws:
        """The draws."""
        return self.draws


class RandomRunner:
    """A `StepRunner` that draws random tokens and computes nothing.

    Args:
        num_pages: KV pages that it claims to have.
        tokens: what it draws.
        end: the token that about one draw in `length` is.
        length: mean length of a stream.
        seed: of the draws.
        lag: see `StepRunner`.
    """

    def __init__(
        self, num_pages: int, tokens: list[int], end: int, length: int, seed: int, lag: int = 0
    ) -> None:
        self.num_pages = num_pages
        self.lag = lag
        self.sharing: Sharing | None = None
        self.costs: StepCosts | None = None
        self.graph_counts: GraphCounts | None = None
        self._tokens = tokens
        self._end = end
        self._length = length
        self._rng = random.Random(seed)

    def launch(self, plan: StepPlan) -> _Drawn:
        """A token for each draw of the plan, and a score for each token that it scores."""
        scores = [(-1.0, None)] * sum(map(len, plan.scored))
        return _Drawn(self.draw(len(plan.draws))._replace(scores=scores))

    def draw(self, count: int) -> Draws:
        """That many tokens."""
        rng = self._rng
        ends = [rng.random() * self._length < 1 for _ in range(count)]
        tokens = [self._end if end else rng.choice(self._tokens) for end in ends]
        return Draws(tokens, [-1.0] * count)

    def use(self, renew: Renewal) -> None:
        """No weights are used."""

    def reset(self) -> None:
        """Nothing is kept."""


def stub_engine(
    length: int = 64, seed: int = 0, num_pages: int = 1 << 15, **options: Any
) -> Engine:
    """Nano's engine with a stub in place of its model; `options` are fields of `EngineConfig`."""
    config = EngineConfig(**options)
    decoder, tokenizer, gsr = load_parts(NANO, config)
    tokens = [t for t in range(decoder.config.vocab_size) if t not in tokenizer.control_ids]
    runner = RandomRunner(num_pages, tokens, min(tokenizer.stop_ids), length, seed)
    return Engine(decoder, tokenizer, gsr, config, runner=runner)
