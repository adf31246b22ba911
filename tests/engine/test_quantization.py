"""Engines that multiply in 8 bits: what runs, what is refused, and that it is the same model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from csrc_triton import QuantizedWeight, dequantize_weight
from gsr_engine import Engine, EngineConfig, InvalidRequest, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from gsr_engine.cli.commands import app
from gsr_engine.demo.report import NANO
from gsr_engine.execution import arithmetic
from gsr_engine.execution.arithmetic import choose_arithmetic
from gsr_engine.execution.loading import load_parts
from gsr_engine.model.decoder import Decoder, FeedForward, Layer, Mlp
from gsr_engine.model.experts import Experts, Weights
from gsr_engine.model.linear import Int8Linear, Linear
from gsr_engine.model.weights import bytes_held, bytes_to_hold, decoder_of, overwrite
from tests.helpers.recorder import Recorder

CPU, GPU = torch.device("cpu"), torch.device("cuda")
INT8: dict[str, Any] = {"device": "cpu", "quantization": "int8", "kv_cache_gib": 0.02}
PARAMS = SamplingParams(n=2, temperature=1.0, max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = ["12*3", "what else", "u" * 40]


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Decoder:
    with open_tensors(folder, ModelConfig.from_folder(folder)) as stored:
        return decoder_of(stored, dtype, quantization="int8")


def plain(linear: Linear) -> Linear:
    """The same weights as products in fp32 take them."""
    assert isinstance(linear, Int8Linear)
    return Linear(linear.dense(), linear.bias, linear.gate)


def plain_layer(layer: Layer) -> Layer:
    mlp: FeedForward
    if isinstance(layer.mlp, Mlp):
        mlp = Mlp(plain(layer.mlp.gate_up), plain(layer.mlp.down))
    else:
        assert isinstance(layer.mlp, Experts)
        stacks = plain_experts(layer.mlp.gate_up), plain_experts(layer.mlp.down)
        mlp = replace(layer.mlp, gate_up=stacks[0], down=stacks[1])
    return replace(layer, qkv=plain(layer.qkv), output=plain(layer.output), mlp=mlp)


def plain_experts(weights: Weights) -> torch.Tensor:
    assert isinstance(weights, QuantizedWeight)
    return torch.stack([dequantize_weight(weights[e]) for e in range(len(weights.data))])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3moe", "phi3", "gemma3"])
def test_logits_are_those_of_the_same_weights_in_fp32(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the rounding of activations: 1 in 254 of the greatest number of a group.

    It may change which experts a row goes through, so the usual row counts.
    """
    config = EngineConfig(device="cpu", quantization="int8", kv_cache_gib=0.02)
    decoder, *parts = load_parts(checkpoints[family], config)
    dense = replace(
        decoder,
        head=plain(decoder.head),
        layers=[plain_layer(layer) for layer in decoder.layers],
        quantization="none",
    )
    found = []
    for model in (decoder, dense):
        recorder = Recorder(monkeypatch, range(20, 40))  # both draw the same tokens
        with Engine(model, *parts, config) as engine:
            engine.generate(PROMPTS, PARAMS)
        found.append(torch.stack([recorder.of(stream) for stream in recorder.logits]))
    mine, theirs = (one - one.mean(-1, keepdim=True) for one in found)
    errors = (mine - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    assert 0 < errors.median() < 0.05


def test_an_engine_says_what_runs() -> None:
    with Engine.from_pretrained(NANO, **INT8) as engine:
        assert (engine.quantization, engine.dtype) == ("int8", "float32")
        stats = engine.stats()
        assert (stats["quantization"], stats["dtype"]) == ("int8", "float32")
        assert "GiB of weights (int8, float32), " in str(engine.footprint)
    with Engine.from_pretrained(NANO, **INT8, dtype="bfloat16") as engine:
        assert (engine.quantization, engine.dtype) == ("int8", "bfloat16")
        assert engine.generate(PROMPTS, PARAMS)[0].error is None
    with Engine.from_pretrained(NANO, kv_cache_gib=0.02) as engine:
        assert engine.stats()["quantization"] == engine.quantization == "none"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen3moe", "phi3"])
def test_memory_is_known_before_a_weight_is_read(family: str, checkpoints: dict[str, Path]) -> None:
    decoder = loaded(checkpoints[family])
    expected = bytes_to_hold(decoder.config, torch.float32, CPU, "int8")
    assert expected <= bytes_held(decoder) < 1.15 * expected  # blocks of 16 outputs are padded


def test_an_embedding_keeps_the_sixteen_bits_of_its_checkpoint(qwen2: Path) -> None:
    config = replace(ModelConfig.from_folder(qwen2), dtype="bfloat16")
    with open_tensors(qwen2, config) as stored:
        decoder = decoder_of(stored, torch.float32, quantization="int8")
        assert decoder.embedding.dtype == torch.bfloat16
        assert decoder.dtype == decoder.final_norm.dtype == torch.float32
        saved = bytes_held(loaded(qwen2)) - bytes_held(decoder)
        assert saved == 2 * decoder.embedding.numel()
        plain = decoder_of(stored, torch.float32)
        assert plain.embedding.dtype == torch.float32


def test_weights_are_quantised_and_overwritten(qwen2: Path) -> None:
    decoder, target = loaded(qwen2), loaded(qwen2)
    with open_tensors(qwen2, ModelConfig.from_folder(qwen2)) as stored:
        fp32 = decoder_of(stored, torch.float32)
    for mine, theirs in zip(decoder.layers, fp32.layers, strict=True):
        expected = Int8Linear.of(theirs.qkv.dense(), group=64)
        assert torch.equal(mine.qkv.dense(), expected.dense())
        assert not torch.equal(mine.qkv.dense(), theirs.qkv.dense())
    target.layers[0].qkv.weight.zero_()
    with open_tensors(qwen2, ModelConfig.from_folder(qwen2)) as stored:
        assert overwrite(stored, target) is target
    assert torch.equal(target.layers[0].qkv.dense(), decoder.layers[0].qkv.dense())


def test_reloaded_weights_are_in_8_bits_too(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, **INT8) as engine:
        before = engine.generate(PROMPTS, PARAMS)
        engine.reload_weights(qwen2)
        after = engine.generate(PROMPTS, PARAMS)
    assert [r.completions for r in before] == [r.completions for r in after]


def test_what_a_device_does_not_multiply_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InvalidRequest, match="quantization: must be auto, none, int8 or fp8, got"):
        EngineConfig(quantization="int4")  # type: ignore[arg-type]
    with open_tensors(NANO, ModelConfig.from_folder(NANO)) as stored:
        int8 = EngineConfig(quantization="int8")
        with pytest.raises(InvalidRequest, match=r"^quantization: 'int8' is for CPUs"):
            choose_arithmetic(int8, stored, GPU)
        assert choose_arithmetic(EngineConfig(), stored, GPU)[1] == "none"
        monkeypatch.setattr(arithmetic, "has_cpu_kernels", lambda _: False)
        with pytest.raises(InvalidRequest, match=r"^quantization: 'int8' needs the kernels"):
            choose_arithmetic(int8, stored, CPU)


def test_the_commands_take_it() -> None:
    def gsr(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments])
        assert done.exit_code in (0, 1), done.output
        return done.output

    told = gsr("generate", "12*3", "--max-tokens", "4", "--quantization", "int8")
    assert re.search(r"GiB\s+of\s+weights\s+\(int8,\s+float32\)", told)
    assert json.loads(gsr("env", "--json"))["int8"]
