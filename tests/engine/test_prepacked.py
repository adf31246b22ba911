"""Weights in oneDNN's layout give the same model, and tokens that do not depend on the batch."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from gsr_engine import Completion, Engine, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.model import linear
from gsr_engine.model.weights import load_decoder

pytestmark = pytest.mark.slow

FP32 = torch.float32
PARAMS = SamplingParams(n=3, temperature=1.0, max_tokens=30, seed=5, ignore_eos=True)
PROMPTS = ["a", "what else", *(c * n for c, n in zip("stuv", (15, 40, 150, 300), strict=True))]


@pytest.fixture
def prepack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepack small weights, too."""
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 0)
    if not linear.prepacks(ModelConfig.from_folder(NANO), FP32):
        pytest.skip("torch has no oneDNN here")


def alone(engine: Engine, index: int) -> list[Completion]:
    request = engine.new_generate(PROMPTS[index], PARAMS, index=index)
    engine.submit(request)
    while engine.has_work:
        engine.step()
    assert request.result
    return request.result.completions


@pytest.mark.usefixtures("prepack")
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_tokens_are_those_of_plain_weights_in_any_company(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints[family]
    with Engine.from_pretrained(folder, dtype="float32") as engine:
        together = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
        assert together == [alone(engine, index) for index in range(len(PROMPTS))]
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 1 << 60)
    with Engine.from_pretrained(folder, dtype="float32") as engine:
        plain = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
    for mine, other in zip(chain(*together), chain(*plain), strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.usefixtures("prepack")
def test_reloaded_weights_are_prepacked(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, dtype="float32") as engine:
        before = engine.generate(PROMPTS[:2], PARAMS)
        engine.reload_weights(qwen2)
        after = engine.generate(PROMPTS[:2], PARAMS)
    assert [r.completions for r in after] == [r.completions for r in before]
    decoder = load_decoder(qwen2, ModelConfig.from_folder(qwen2), FP32)
    linears = [decoder.head, decoder.layers[-1].down, decoder.layers[0].qkv]
    assert all(linear.is_prepacked for linear in linears)


def test_small_weights_stay_plain(qwen2: Path) -> None:
    decoder = load_decoder(qwen2, ModelConfig.from_folder(qwen2), FP32)
    assert not decoder.head.is_prepacked


def test_auto_runs_bf16_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, torch.bfloat16), (False, FP32)):
        monkeypatch.setattr(linear, "has_bf16_products", lambda has=has: has)
        assert linear.compute_dtype(torch.bfloat16) == expected
        assert linear.compute_dtype(FP32) == FP32
