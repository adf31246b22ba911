"""Layouts of weights give the same model, and tokens that do not depend on the batch."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from csrc_triton import Gate, pack_weight, packed_linear, reference
from gsr_engine import Completion, Engine, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.model import linear
from gsr_engine.model.linear import Int8Linear, Linear, OnednnLinear, PackedLinear, linear_maker
from gsr_engine.model.weights import load_decoder

FP32, BF16, CPU = torch.float32, torch.bfloat16, torch.device("cpu")
PARAMS = SamplingParams(n=3, temperature=1.0, max_tokens=30, seed=5, ignore_eos=True)
PROMPTS = ["a", "what else", *(c * n for c, n in zip("stuv", (15, 40, 150, 300), strict=True))]
CLOSE = {FP32: {"atol": 1e-5, "rtol": 1e-4}, BF16: {"atol": 0.06, "rtol": 0.02}}


@pytest.fixture(params=[FP32, BF16], ids=str)
def onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """A dtype; bf16 weights go to oneDNN, however small."""
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 0)
    if request.param == BF16 and not linear.has_bf16_products():
        pytest.skip("oneDNN does not multiply bf16 here")
    return request.param


def alone(engine: Engine, index: int) -> list[Completion]:
    request = engine.new_generate(PROMPTS[index], PARAMS, index=index)
    engine.submit(request)
    while engine.has_work:
        engine.step()
    assert request.result
    return request.result.completions


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_tokens_are_those_of_plain_weights_in_any_company(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints[family]
    with Engine.from_pretrained(folder, dtype="float32", prefix_cache=False) as engine:
        together = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
        assert together == [alone(engine, index) for index in range(len(PROMPTS))]
    monkeypatch.setattr(linear, "has_cpu_kernels", lambda _: False)
    with Engine.from_pretrained(folder, dtype="float32", prefix_cache=False) as engine:
        plain = [result.completions for result in engine.generate(PROMPTS, PARAMS)]
    for mine, other in zip(chain(*together), chain(*plain), strict=True):
        assert mine.token_ids == other.token_ids
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.slow
def test_reloaded_weights_have_the_same_layout(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, dtype="float32") as engine:
        before = engine.generate(PROMPTS[:2], PARAMS)
        engine.reload_weights(qwen2)
        after = engine.generate(PROMPTS[:2], PARAMS)
    assert [r.completions for r in after] == [r.completions for r in before]


def test_kernels_take_small_bf16_weights_and_all_of_fp32() -> None:
    config = ModelConfig.from_folder(NANO)
    weight = torch.randn(64, 32)
    for dtype in (FP32, BF16):
        made = linear_maker(config, dtype, CPU)(weight.to(dtype))
        assert isinstance(made, PackedLinear)


def test_every_layout_computes_what_plain_weights_do(onednn: torch.dtype) -> None:
    config = ModelConfig.from_folder(NANO)
    maker = linear_maker(config, onednn, CPU)
    generator = torch.Generator().manual_seed(1)
    for inputs, outputs in ((64, 96), (100, 46), (600, 400)):
        weight = (torch.randn(outputs, inputs, generator=generator) * inputs**-0.5).to(onednn)
        bias = torch.randn(outputs, generator=generator).to(onednn)
        x = torch.randn(9, inputs, generator=generator).to(onednn)
        for made, plain in (
            (maker(weight, bias), Linear(weight, bias)),
            (maker(weight, None, "silu"), Linear(weight, None, "silu")),
        ):
            assert isinstance(made, OnednnLinear if onednn == BF16 else PackedLinear)
            assert torch.equal(made.dense(), weight)
            torch.testing.assert_close(made(x), plain(x), **CLOSE[onednn])


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
@pytest.mark.parametrize("group", [None, 32])
def test_8_bits_compute_nearly_what_their_dense_weights_do(
    group: int | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = (torch.randn(96, 100, generator=generator) / 10).to(dtype)
    x, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((9, 100), (96,)))
    for made, plain in (
        (Int8Linear.of(weight, bias, group=group), Linear(weight, bias)),
        (Int8Linear.of(weight, None, "silu", group), Linear(weight, None, "silu")),
    ):
        assert (made(x) - plain(x)).norm() < 0.02 * plain(x).norm()
        assert (made.dense() - weight).norm() < 0.01 * weight.norm()
        other = Int8Linear.of(torch.zeros_like(weight), made.bias, made.gate, group)
        other.weight.copy_(made.weight)  # as a reload does: nothing of a weight lies elsewhere
        assert torch.equal(other(x), made(x))


def test_the_decoder_of_a_checkpoint_holds_its_weights(qwen2: Path) -> None:
    decoder = load_decoder(qwen2, ModelConfig.from_folder(qwen2), FP32)
    assert torch.equal(decoder.head.dense(), decoder.embedding)
    assert decoder.layers[0].mlp.gate_up.gate == "silu"


@given(
    rows=st.integers(0, 300),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 100),
    gate=st.sampled_from([None, "silu", "gelu_tanh"]),
    dtype=st.sampled_from([FP32, BF16]),
)
def test_packed_products_and_their_rows_alone(
    rows: int, inputs: int, outputs: int, gate: Gate | None, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(rows * inputs)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    weight = torch.randn(outputs * (2 if gate else 1), inputs, generator=generator) * inputs**-0.5
    weight = weight.to(dtype)
    bias = None if gate else torch.randn(outputs, generator=generator).to(dtype)
    packed = pack_weight(weight, gated=gate is not None)
    found = packed_linear(x, packed, bias, outputs, gate=gate)
    expected = F.linear(x, weight, bias)
    expected = reference.gated_activation(expected, gate) if gate else expected
    torch.testing.assert_close(found, expected, **CLOSE[dtype])
    for row in range(0, rows, 37):
        some = packed_linear(x[row : row + 3], packed, bias, outputs, gate=gate)
        assert torch.equal(some, found[row : row + 3])


def test_a_row_with_a_nan_is_its_own_affair() -> None:
    x, weight = torch.randn(20, 40), torch.randn(33, 40)
    expected = packed_linear(x, pack_weight(weight), None, 33)
    x[7, 3] = float("nan")
    found = packed_linear(x, pack_weight(weight), None, 33)
    assert found[7].isnan().all()
    others = torch.arange(20) != 7
    assert torch.equal(found[others], expected[others])


def test_shapes_that_disagree_are_refused() -> None:
    packed = pack_weight(torch.randn(33, 40))
    for x, bias, outputs, gate in (
        (torch.randn(2, 41), None, 33, None),
        (torch.randn(2, 40), None, 65, None),
        (torch.randn(2, 40), torch.randn(33), 20, "silu"),
    ):
        with pytest.raises(ValueError, match=r"outputs|packed|bias"):
            packed_linear(x, packed, bias, outputs, gate=gate)


def test_auto_runs_bf16_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, BF16), (False, FP32)):
        monkeypatch.setattr(linear, "has_bf16_products", lambda has=has: has)
        assert linear.compute_dtype(BF16) == expected
        assert linear.compute_dtype(FP32) == FP32
