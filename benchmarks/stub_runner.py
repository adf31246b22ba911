"""An engine without a model: what is left is the host's work."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from gsr_engine import Engine
from gsr_engine.demo.report import NANO
from gsr_engine.execution.sampler import Draws
from gsr_engine.step.plan import StepPlan


class _Drawn(NamedTuple):
    """Draws that nobody waits for."""

    draws: Draws

    def wait(self) -> Draws:
        """The draws."""
        return self.draws


class StubRunner:
    """Draws random tokens and computes nothing; about one draw in `length` ends its stream."""

    def __init__(self, engine: Engine, length: int = 64, seed: int = 0) -> None:
        special, vocab = engine.tokenizer.special_ids, engine.limits.vocab_size
        self._tokens = [token for token in range(vocab) if token not in special]
        self._end = min(engine.tokenizer.stop_ids)
        self._length = length
        self._rng = random.Random(seed)

    lag = 0
    sharing = None

    def launch(self, plan: StepPlan) -> _Drawn:
        """A token for each draw of the plan."""
        return _Drawn(self.draw(len(plan.draws)))

    def draw(self, count: int) -> Draws:
        """So many tokens."""
        rng = self._rng
        ends = [rng.random() * self._length < 1 for _ in range(count)]
        tokens = [self._end if end else rng.choice(self._tokens) for end in ends]
        return Draws(tokens, [-1.0] * count)

    def reset(self) -> None:
        """Nothing is kept."""


def stub_engine(length: int = 64, seed: int = 0, **options: Any) -> Engine:
    """Nano's engine with a stub in place of its model; `options` are fields of `EngineConfig`."""
    engine = Engine.from_pretrained(NANO, **options)
    engine._steps.runner = StubRunner(engine, length, seed)  # type: ignore[assignment,union-attr]
    return engine
