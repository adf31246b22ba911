"""Products in fp8 against plain ones, and checkpoints in fp8 against their dequantisation."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, FineGrainedFP8Config

from benchmarks.quantization.fp8_error import all_logits, blocks_of, errors_of
from benchmarks.random_weights import engine_over
from csrc_triton import Gate, gated_activation
from gsr_engine import CheckpointError, Engine, InvalidRequest, SamplingParams, UnsupportedModel
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from gsr_engine.demo.report import NANO
from gsr_engine.execution.arithmetic import describe_arithmetic
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.fp8 import E4M3, fp8_support, quantize_rows
from gsr_engine.model.linear import Fp8Linear, Linear
from gsr_engine.model.weights import (
    bytes_held,
    bytes_to_hold,
    decoder_of,
    load_decoder,
    overwrite,
)
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.variants import Tensors, change_config, change_tensors

BF16, FP32 = torch.bfloat16, torch.float32
IDS = [5, 6, 7, 8, 40, 41, 90, 3]
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}


@given(
    rows=st.lists(st.integers(0, 5), min_size=1, max_size=2),
    inputs=st.integers(1, 6),
    outputs=st.integers(1, 6),
    kind=st.sampled_from(["plain", "bias", "silu", "gelu_tanh"]),
    dtype=st.sampled_from([FP32, BF16]),
    scale=st.sampled_from([1e-30, 1.0, 1e30]),
)
def test_products_are_those_of_the_quantised_numbers(
    rows: list[int], inputs: int, outputs: int, kind: str, dtype: torch.dtype, scale: float
) -> None:
    generator = torch.Generator().manual_seed(inputs * outputs)
    x = (torch.randn(*rows, 16 * inputs, generator=generator) * scale).to(dtype)
    gate: Gate | None = kind if kind in ("silu", "gelu_tanh") else None  # type: ignore[assignment]
    weight = torch.randn(16 * outputs * (2 if gate else 1), 16 * inputs, generator=generator)
    bias = torch.randn(len(weight), generator=generator).to(BF16) if kind == "bias" else None
    made = Fp8Linear.of((weight / scale).to(BF16), bias, gate)
    quantised, scales = quantize_rows(x.flatten(0, -2))
    exact = (quantised.double() * scales.double()).view(x.shape)
    expected = F.linear(exact, made.weight.double() * made.scales.T.double())
    if bias is not None:
        expected += bias.double()
    expected = expected.to(BF16)
    expected = gated_activation(expected, gate) if gate else expected
    found = made(x)
    assert found.dtype == BF16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-2)
    # e4m3 has four significant bits; what is below the range of its row is lost.
    lost = 2**-4 * x.float().abs() + 2**-10 / 448 * x.float().abs().amax(-1, keepdim=True)
    assert ((exact - x).abs() <= lost).all()


def test_a_row_with_a_nan_is_its_own_affair_and_zeros_stay() -> None:
    made = Fp8Linear.of(torch.randn(32, 48))
    x = torch.randn(20, 48)
    x[3] = 0
    expected = made(x)
    assert (expected[3] == 0).all()
    x[7, 3], x[8, 0] = torch.nan, torch.inf
    found = made(x)
    assert found[7:9].isnan().all()
    others = (torch.arange(20) != 7) & (torch.arange(20) != 8)
    assert torch.equal(found[others], expected[others])


def test_shapes_that_chips_do_not_multiply_stay_as_they_are() -> None:
    assert type(Fp8Linear.of(torch.randn(32, 48))) is Fp8Linear
    for shape in ((32, 40), (40, 32)):
        weight = torch.randn(shape)
        plain = Fp8Linear.of(weight, None, "silu")
        assert type(plain) is Linear
        assert plain.weight is weight
        assert plain.gate == "silu"


def test_a_cpu_does_not_run_fp8(qwen2: Path) -> None:
    assert fp8_support(torch.device("cpu")) == "runs on NVIDIA GPUs alone"
    with pytest.raises(InvalidRequest, match="quantization: 'fp8' runs on NVIDIA GPUs alone"):
        Engine.from_pretrained(qwen2, quantization="fp8")


@pytest.mark.parametrize(("capability", "runs"), [((8, 6), False), ((8, 9), True), ((10, 0), True)])
def test_a_gpu_runs_it_from_ada_on(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    reason = fp8_support(torch.device("cuda", 0))
    why = "needs a GPU of compute capability 8.9 or more, this one has 8.6"
    assert reason == (None if runs else why)


def test_nano_in_fp8_through_the_engine() -> None:
    config = ModelConfig.from_folder(NANO)
    decoder, other = load_quantized(NANO), load_quantized(NANO)
    for layer in decoder.layers:
        for linear in (layer.qkv, layer.output, layer.mlp.gate_up, layer.mlp.down):
            assert isinstance(linear, Fp8Linear)
            assert linear.weight.dtype == E4M3
    prompts = [[1, *range(20, 60)]]
    bf16 = load_decoder(NANO, config, BF16)
    errors = errors_of(bf16, prompts)
    assert 0.001 < errors["fp8"].relative < 0.1
    assert torch.equal(all_logits(other, prompts), all_logits(decoder, prompts))
    for layer in other.layers:  # as a reload does: nothing of a weight lies elsewhere
        layer.qkv.weight.zero_()
        layer.qkv.scales.zero_()
    with open_tensors(NANO, config) as stored:
        overwrite(stored, other)
    assert torch.equal(all_logits(other, prompts), all_logits(decoder, prompts))
    with engine_over(decoder, device="cpu", kv_cache_gib=0.1) as engine:
        params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
        assert len(engine.generate(prompts, params)[0].completions[0].token_ids) == 8


def in_fp8(
    source: Path, folder: Path, block: tuple[int, int] | None, **fields: Any
) -> tuple[Path, Tensors]:
    """A checkpoint with its linears in fp8, and its tensors, dequantised plainly."""
    shutil.copytree(source, folder)
    plain: Tensors = {}

    def change(tensors: Tensors) -> Tensors:
        stored: Tensors = {}
        for name, tensor in tensors.items():
            plain[name] = stored[name] = tensor
            if not name.endswith("_proj.weight"):
                continue
            stem = name.removesuffix("weight")
            if block is None:
                scale = tensor.abs().max().float() / 448
                stored[name] = (tensor / scale).to(E4M3)
                stored[stem + "activation_scale"] = torch.tensor(0.1)
                plain[name] = stored[name].float() * scale
            else:
                stored[name], scale, plain[name] = in_blocks(tensor, block)
            stored[stem + "weight_scale_inv"] = scale
        return stored

    change_tensors(folder, change)
    sizes = None if block is None else list(block)
    change_config(folder, quantization_config={**FP8, "weight_block_size": sizes, **fields})
    return folder, plain


def in_blocks(
    tensor: torch.Tensor, block: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """e4m3, scales, and their products, block by block."""
    rows, columns = (range(0, n, size) for n, size in zip(tensor.shape, block, strict=True))
    stored, plain = torch.empty(tensor.shape, dtype=E4M3), torch.empty(tensor.shape)
    scales = torch.empty(len(rows), len(columns))
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            part = slice(top, top + block[0]), slice(left, left + block[1])
            scales[i, j] = tensor[part].abs().max() / 448
            stored[part] = (tensor[part] / scales[i, j]).to(E4M3)
            plain[part] = stored[part].float() * scales[i, j]
    return stored, scales, plain


def logits(folder: Path) -> torch.Tensor:
    return all_logits(load_decoder(folder, ModelConfig.from_folder(folder), FP32), [IDS])


@pytest.mark.parametrize("family", ["qwen3", "phi3", "qwen3moe"])
@pytest.mark.parametrize("block", [(16, 16), (20, 36), (128, 128), None])
def test_they_are_read_as_their_dequantisation(
    family: str, block: tuple[int, int] | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    fields = {"activation_scheme": "static"} if block is None else {}
    folder, plain = in_fp8(checkpoints[family], tmp_path / "fp8", block, **fields)
    dequantised = shutil.copytree(checkpoints[family], tmp_path / "plain")
    change_tensors(dequantised, lambda _: plain)
    assert torch.equal(logits(folder), logits(dequantised))
    config = ModelConfig.from_folder(folder)
    assert config.notes == ModelConfig.from_folder(dequantised).notes
    with open_tensors(folder, config) as stored:
        unused = ["activation scales are not used" in note for note in stored.notes]
    assert unused == [True] * (block is None)


def test_blocks_are_those_of_the_benchmark() -> None:
    tensor = torch.randn(40, 70)
    stored, scales, _ = in_blocks(tensor, (16, 16))
    found = blocks_of(tensor, 16)
    assert torch.equal(found[0].float(), stored.float())
    assert torch.equal(found[1], scales)


@pytest.mark.filterwarnings("ignore")
def test_transformers_dequantises_as_we_do(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    fields = {"modules_to_not_convert": ["lm_head"]}
    folder, _ = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16), **fields)
    how = FineGrainedFP8Config(weight_block_size=(16, 16), dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=FP32, quantization_config=how, attn_implementation="eager"
    )
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits(folder), expected, atol=1e-4, rtol=0)


def test_blocks_run_in_fp8_too(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder, plain = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    decoder = load_quantized(folder)
    found = decoder.layers[1].output.dense()
    expected = plain["model.layers.1.self_attn.o_proj.weight"]
    assert 0.01 < (found - expected).norm() / expected.norm() < 0.04
    exact = logits(folder)
    assert 0.001 < (all_logits(decoder, [IDS]) - exact).norm() / exact.norm() < 0.3


def test_the_names_of_a_model_that_sees_images(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = in_fp8(checkpoints["ministral3"], tmp_path / "fp8", None)
    expected = logits(folder)

    def rename(tensors: Tensors) -> Tensors:
        named = {name.replace("model.", "model.language_model."): t for name, t in tensors.items()}
        vision = torch.zeros(2, 2).to(E4M3)  # nobody reads it, so it needs no scale
        return {**named, "model.vision_tower.weight": vision}

    change_tensors(folder, rename)
    assert torch.equal(logits(folder), expected)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_merged_into_what_was_dequantised(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    from tests.engine.test_adapters import engine_logits, make_adapter

    folder, plain = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    dequantised = shutil.copytree(checkpoints["qwen3"], tmp_path / "plain")
    change_tensors(dequantised, lambda _: plain)
    adapter = make_adapter(dequantised, tmp_path / "adapter")
    assert engine_logits(folder, adapter) == engine_logits(dequantised, adapter)
    assert engine_logits(folder, adapter) != engine_logits(folder, None)


@pytest.fixture
def any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU is taken for a device that runs fp8, as its operators do."""
    monkeypatch.setattr("gsr_engine.execution.arithmetic.fp8_support", lambda _: None)


def notes_of(folder: Path, **options: Any) -> tuple[str, str, str]:
    """Quantisation and dtype of an engine, and what it says of them."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Engine.from_pretrained(folder, kv_cache_gib=0.01, **options) as engine:
            engine.generate([IDS], SamplingParams(max_tokens=2))
            return engine.quantization, engine.dtype, " ".join(str(one.message) for one in caught)


def test_a_checkpoint_in_fp8_is_dequantised_with_one_note(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    for asked, run in (("auto", "none"), ("none", "none"), ("int8", "int8")):
        *found, said = notes_of(folder, quantization=asked)
        assert found == [run, "float32"]
        layers = "float32" if run == "none" else "int8"
        assert said == f"weights in fp8 are dequantised: layers run in {layers}"


@pytest.mark.usefixtures("any_device")
def test_a_checkpoint_in_fp8_runs_in_fp8_where_the_device_does(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    assert describe_arithmetic()["fp8"] == "yes, on cpu"
    *found, said = notes_of(folder)
    assert found == ["fp8", "bfloat16"]
    assert "a checkpoint in fp8 runs in fp8, a scale for each row" in said
    *found, said = notes_of(folder, dtype="float32")
    assert found == ["none", "float32"]
    assert "are dequantised: layers run in float32" in said
    *found, said = notes_of(folder, quantization="none")
    assert found[0] == "none"
    with pytest.raises(InvalidRequest, match="'fp8' returns bfloat16: take dtype='bfloat16'"):
        Engine.from_pretrained(folder, quantization="fp8", dtype="float32")


@pytest.mark.usefixtures("any_device")
def test_any_checkpoint_runs_in_fp8_and_is_reloaded(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = checkpoints["qwen2"]
    folder, _ = in_fp8(source, tmp_path / "fp8", (16, 16))
    params = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)

    def tokens(engine: Engine) -> list[int]:
        return engine.generate([IDS], params)[0].completions[0].token_ids

    options: dict[str, Any] = {"quantization": "fp8", "kv_cache_gib": 0.01}
    with (
        Engine.from_pretrained(source, **options) as engine,
        Engine.from_pretrained(folder, **options) as other,
    ):
        assert engine.stats()["quantization"] == "fp8"
        assert "fp8, bfloat16" in str(engine.footprint)
        assert tokens(engine) != tokens(other)
        engine.reload_weights(folder)
        assert tokens(engine) == tokens(other)


@pytest.mark.usefixtures("any_device")
def test_products_that_stay_plain_are_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "odd", "qwen2", config={"intermediate_size": 88})
    assert "3 of 12 products stay in bfloat16" in notes_of(folder, quantization="fp8")[2]
    held = load_quantized(folder)
    config = ModelConfig.from_folder(folder)
    assert bytes_to_hold(config, BF16, torch.device("cuda"), "fp8") < bytes_held(held)


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("family", ["qwen3", "qwen3moe"])
def test_memory_is_what_was_foretold(family: str, checkpoints: dict[str, Path]) -> None:
    held = bytes_held(load_quantized(checkpoints[family]))
    config = ModelConfig.from_folder(checkpoints[family])
    # The kernels of a CPU pack head, router and experts in blocks of 16 outputs.
    padding = 16 * 2 * config.hidden_size * (1 if config.experts is None else 24)
    foretold = bytes_to_hold(config, BF16, torch.device("cpu"), "fp8")
    assert foretold <= held <= foretold + padding


def load_quantized(folder: Path) -> Decoder:
    with open_tensors(folder, ModelConfig.from_folder(folder)) as stored:
        return decoder_of(stored, BF16, quantization="fp8")


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("asked", ["auto", "fp8"])
def test_experts_stay_in_their_dtype(
    asked: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = in_fp8(checkpoints["qwen3moe"], tmp_path / "fp8", (16, 16))
    quantization, _, said = notes_of(folder, quantization=asked, dtype="bfloat16")
    assert quantization == ("none" if asked == "auto" else "fp8")
    assert ("experts multiply in bfloat16: only attention is in fp8" in said) == (asked == "fp8")


Q = "model.layers.1.self_attn.q_proj."


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: one for key, one in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(Q + "weight_scale_inv"), f"{Q}weight is F8_E4M3, and its weight_scale_inv is mis"),
        (without(Q + "weight"), f"{Q}weight_scale_inv is the scale of no weight"),
        (
            lambda t: {**t, Q + "weight": t[Q + "weight"].float()},
            f"{Q}weight_scale_inv is the scale of no weight in F8_E4M3",
        ),
        (
            lambda t: {**t, Q + "weight_scale_inv": torch.ones(4, 4)},
            rf"{Q}weight_scale_inv has shape \(4, 4\), weight_block_size .* implies \(4, 3\)",
        ),
        (
            lambda t: {**t, Q + "weight_scale_inv": torch.ones(4, 3, dtype=torch.int32)},
            f"{Q}weight_scale_inv is stored as I32, not as one of F32",
        ),
        (
            lambda t: {
                **t,
                "model.norm.weight": t["model.norm.weight"].to(E4M3),
                "model.norm.weight_scale_inv": torch.ones(1),
            },
            "model.norm.weight is F8_E4M3 and no matrix",
        ),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    change: Callable[[Tensors], Tensors], message: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        Engine.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quant_method": "gptq"}, "quantization_config {.*gptq.*, only quant_method 'fp8'"),
        ({"fmt": "e5m2"}, "fmt 'e5m2' is not supported, only 'e4m3'"),
        ({"activation_scheme": "odd"}, "only 'dynamic' or 'static'"),
        ({"expert_dtype": "fp4"}, "expert_dtype 'fp4'"),
        ({"weight_block_size": [16]}, r"weight_block_size must be two integers .*, got \[16\]"),
        ({"weight_block_size": [0, 16]}, "weight_block_size"),
        ({"weight_block_size": "all"}, "weight_block_size"),
    ],
)
def test_other_schemes_are_refused(fields: dict[str, Any], message: str, qwen2: Path) -> None:
    raw = json.loads((qwen2 / "config.json").read_text())
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict({**raw, "quantization_config": {**FP8, **fields}})


def test_what_is_not_read_is_named(qwen2: Path) -> None:
    raw = json.loads((qwen2 / "config.json").read_text())
    config = ModelConfig.from_dict({**raw, "quantization_config": {**FP8, "odd": 1}})
    assert config.notes[-1] == "config.json: not read: quantization_config.odd"


def test_fp8_without_its_config_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder, _ = in_fp8(checkpoints["qwen3"], tmp_path / "fp8", (16, 16))
    change_config(folder, quantization_config=...)
    with pytest.raises(UnsupportedModel, match="is stored as F8_E4M3, not a float"):
        Engine.from_pretrained(folder)
