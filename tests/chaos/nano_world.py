"""An engine over nano, which breaks where a device may break."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest

from gsr_engine import Completion, Engine, EngineConfig, GenerateResult, RefineResult
from gsr_engine.execution.device import build_runner
from gsr_engine.schedule.admission import AnyRequest
from tests.chaos.actions import Fault
from tests.chaos.engine_world import MAX_STREAMS, EngineWorld, Make, nano
from tests.chaos.saboteur import Saboteur
from tests.helpers.drafts import SPECULATION

AnyResult = GenerateResult | RefineResult
_UNDISTURBED = {"stop", "length", "repetition", "given"}
PAGE_GIB = 2 * 3 * 2 * 32 * 4 * 16 / 2**30  # of nano's keys and values


def new_saboteur(pages: int) -> Saboteur:
    """Nano's own runner with that many pages, to be broken."""
    config = EngineConfig(max_num_seqs=MAX_STREAMS, kv_cache_gib=(pages + 0.5) * PAGE_GIB)
    runner = build_runner(nano()[0], config)
    assert runner.num_pages == pages
    return Saboteur(runner)


class NanoWorld(EngineWorld):
    """See `World`. Whoever was not disturbed is asked again, alone, in another engine."""

    faults: tuple[Fault, ...] = (
        "launch",
        "attention",
        "sampling",
        "transfer",
        "nan",
        "nan",
        "interrupt",
        "memory",
        "memory",
    )

    def __init__(self, pages: int, **options: Any) -> None:
        self.runner = new_saboteur(pages)
        super().__init__(self.runner, new_saboteur(400), **options)

    @classmethod
    def random(cls, seed: int) -> NanoWorld:
        """A world with a random pool, cache and token budget."""
        rng = random.Random(seed)
        return cls(
            pages=rng.choice((36, 60, 200)),
            prefix_cache=rng.random() < 0.8,
            max_batch_tokens=rng.choice((40, 100, 400)),
            speculative_config=rng.choice(SPECULATION),
        )

    def fault(self, kind: Fault, rng: random.Random) -> None:
        self.runner.fault, self.runner.fault_row = kind, rng.randrange(1000)

    def judge(self, request: AnyRequest) -> None:
        """Nothing yet: `drain` compares."""

    def drain(self) -> None:
        super().drain()
        compare_alone((one.result, make) for one, make in self.asked.items())


def compare_alone(ended: Iterable[tuple[AnyResult, Make]]) -> None:
    """Ask for the same again, one by one, and compare the tokens of the undisturbed.

    In fp32 a request's tokens do not depend on its company. The exceptions change last bits only: a
    prompt that was found, cut into chunks or computed again. So a tie may fall otherwise.
    """
    config = EngineConfig(max_num_seqs=MAX_STREAMS, prefix_cache=False)
    compared = ties = 0
    with Engine(*nano(), config) as engine:
        for result, make in ended:
            mine = _completions(result)
            if result.error is None and mine and {c.finish_reason for c in mine} <= _UNDISTURBED:
                (alone,) = engine.run([make(engine)])
                ties += not _agree(mine, _completions(alone))
                if isinstance(result, GenerateResult):
                    assert _prompt_logprobs(result) == pytest.approx(
                        _prompt_logprobs(alone), abs=1e-3
                    )
                compared += 1
    assert ties <= compared / 20


def _completions(result: AnyResult) -> list[Completion]:
    if isinstance(result, GenerateResult):
        return result.completions
    return [c for every in (result.candidates, *result.rounds) for c in every]


def _prompt_logprobs(result: GenerateResult) -> list[float]:
    """The log-probabilities of a prompt's tokens behind the first; none if not asked for."""
    found = result.prompt_logprobs
    return [] if found is None else [one for one in found.logprobs if one is not None]


def _agree(mine: list[Completion], alone: list[Completion]) -> bool:
    """Whether all tokens agree; up to the first that does not, the log-probabilities must."""
    for left, right in zip(mine, alone, strict=True):
        every = zip(left.token_ids, right.token_ids, left.logprobs, right.logprobs, strict=False)
        for left_token, right_token, left_logprob, right_logprob in every:
            if left_token != right_token:
                return False
            assert abs(left_logprob - right_logprob) < 1e-3
        assert len(left.token_ids) == len(right.token_ids)
    return True
