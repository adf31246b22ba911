"""Logits are edited one step ahead: the token in flight is counted on the device.

Nothing is waited for while a step is launched, and the tokens are those of steps one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gsr_engine import Completion, Engine, SamplingParams
from gsr_engine.checkpoint.generation_config import GenerationConfig
from gsr_engine.execution.draw_graphs import DrawGraphs
from gsr_engine.execution.logits import LogitEdits
from gsr_engine.execution.sampler import LastDraws, Sampler
from gsr_engine.kv.segments import Segment, Span
from gsr_engine.requests.request import Stream
from tests.helpers.paged import paged_engine

VOCAB = 12
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=20)
PENALTIES = st.fixed_dictionaries(
    {
        "repetition_penalty": st.sampled_from([1.0, 0.7, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 0.9, -1.1]),
        "frequency_penalty": st.sampled_from([0.0, 0.3, -0.4]),
        "min_tokens": st.integers(0, 12),
    }
)


def streams_of(rows: list[tuple[list[int], list[int], dict[str, Any], bool]]) -> list[Stream]:
    """Streams of (prompt, drawn tokens, parameters, whether the last token is in flight)."""
    made = []
    for index, (prompt, drawn, params, flies) in enumerate(rows):
        known = drawn[:-1] if flies and drawn else drawn
        context = (Span(Segment(prompt), 0, len(prompt)),)
        filled = GenerationConfig().fill(SamplingParams(**params))
        stream = Stream(index, filled, 7, {2: None, 3: None}, Segment(known, context=context))
        stream.in_flight = len(drawn) - len(known)
        made.append(stream)
    return made


@given(
    rows=st.lists(
        st.tuples(TOKENS, TOKENS, PENALTIES, st.booleans()),
        min_size=1,
        max_size=5,
    ),
    shift=st.integers(0, 4),
)
def test_a_token_in_flight_counts_like_one_that_is_known(
    rows: list[tuple[list[int], list[int], dict[str, Any], bool]], shift: int
) -> None:
    """To the last bit, whether or not its stream drew it before."""
    logits = torch.randn(len(rows), VOCAB, generator=torch.Generator().manual_seed(shift))
    original = logits.clone()
    known = streams_of([(*row[:3], False) for row in rows])
    with LogitEdits(known, VOCAB, logits.device).applied(logits):
        expected = logits.clone()
    flying = streams_of(rows)
    places = {s.segment: (i + shift) % len(rows) for i, s in enumerate(flying)}
    tokens = torch.full((len(rows),), -7)
    for stream, (_, drawn, _, _) in zip(flying, rows, strict=True):
        if stream.in_flight:
            tokens[places[stream.segment]] = drawn[-1]
    unknown = LastDraws(tokens, places).of(flying)
    assert (unknown is None) == (not any(stream.in_flight for stream in flying))
    with LogitEdits(flying, VOCAB, logits.device).applied(logits, unknown):
        assert torch.equal(logits, expected)
    assert torch.equal(logits, original)


EXTRAS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3, "top_logprobs": 3},
    {"presence_penalty": 1.5, "frequency_penalty": -0.5},
    {},
    {"frequency_penalty": 0.7, "min_tokens": 9, "top_k": 20},
    {"repetition_penalty": 0.8, "stop": ("e",), "min_tokens": 15},
]
PROMPTS = [f"prompt number {index} " * (1 + index) for index in range(len(EXTRAS))]
PARAMS = [SamplingParams(n=3, max_tokens=24, seed=5, **extra) for extra in EXTRAS]


@pytest.fixture(scope="module")
def expected(qwen2: Path) -> list[list[Completion]]:
    with Engine.from_pretrained(qwen2) as engine:
        return [result.completions for result in engine.generate(PROMPTS, PARAMS)]


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("gib", [0.01, 0.00025])
@pytest.mark.parametrize("how", [{}, {"speculative_config": {"method": "ngram"}}])
def test_siblings_draw_the_same_tokens_ahead_and_preempted(
    lag: int, gib: float, how: dict[str, Any], qwen2: Path, expected: list[list[Completion]]
) -> None:
    options = {"kv_cache_gib": gib, "max_num_seqs": 16, "max_batch_tokens": 64, **how}
    with paged_engine(qwen2, lag, **options) as engine:
        found = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
        assert bool(engine.stats()["preemptions"]) == (gib < 0.01)
        engine.check()
    for mine, other in zip(found, expected, strict=True):
        assert [c.token_ids for c in mine] == [c.token_ids for c in other]
        assert [c.finish_reason for c in mine] == [c.finish_reason for c in other]


class NothingWaits(TorchDispatchMode):
    """Refuses what makes a host wait for its GPU: sizes or numbers that depend on contents."""

    _WAITING = (
        "aten._local_scalar_dense",
        "aten.nonzero",
        "aten.masked_select",
        "aten.unique",
        "aten.equal",
        "aten.is_nonzero",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not name.startswith(self._WAITING), name
        if name.startswith(("aten.index.", "aten.index_put")):
            assert all(i is None or i.dtype == torch.int64 for i in args[1])
        if name.startswith("aten.repeat_interleave.Tensor"):
            assert kwargs.get("output_size") is not None
        return func(*args, **(kwargs or {}))


class LaterFetched:
    """Values that are copied now and read by the host later, as on a GPU."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = [tensor.clone() for tensor in tensors]

    def wait(self) -> list[list[Any]]:
        return [tensor.tolist() for tensor in self._tensors]


def refused(*_: Any, **__: Any) -> Any:
    raise AssertionError("the host waits for the device")


def test_draws_wait_for_nothing(
    qwen2: Path, expected: list[list[Completion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a stream with penalties draws while its last token is in flight."""
    ahead: set[int] = set()

    def guarded(draw: Callable[..., Any], place: int) -> Callable[..., Any]:
        def drawing(*args: Any) -> Any:
            ahead.update(s.in_flight for s in args[place] if s.params.penalises)
            with NothingWaits(), pytest.MonkeyPatch.context() as patch:
                for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__"):
                    patch.setattr(torch.Tensor, name, refused)
                patch.setattr(torch, "tensor", refused)  # copied from ordinary memory
                return draw(*args)

        return drawing

    monkeypatch.setattr("gsr_engine.execution.sampler.Fetched", LaterFetched)
    monkeypatch.setattr(Sampler, "draw", guarded(Sampler.draw, 3))
    monkeypatch.setattr(DrawGraphs, "replay", guarded(DrawGraphs.replay, 1))
    with paged_engine(qwen2, 1, max_num_seqs=16, max_batch_tokens=64) as engine:
        found = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
    assert [[c.token_ids for c in one] for one in found] == [
        [c.token_ids for c in one] for one in expected
    ]
    assert ahead == {0, 1}
