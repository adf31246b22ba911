"""The choice of the device, and the error if a GPU is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsr_engine import Engine, InvalidRequest
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from gsr_engine.execution.device import choose_device
from gsr_engine.model.weights import (
    copy_weights,
    decoder_of,
    dummy_decoder,
    load_decoder,
    weight_bytes,
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(qwen2: Path) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidRequest, match="device: 'cuda' was asked for"):
        Engine.from_pretrained(qwen2, device="cuda")


@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3", "llama3", "qwen3moe", "phi3-partial", "gemma3"]
)
def test_weights_are_counted_and_copied_whole(family: str, checkpoints: dict[str, Path]) -> None:
    model = ModelConfig.from_folder(checkpoints[family])
    source = load_decoder(checkpoints[family], model, torch.float32)
    target = dummy_decoder(model, torch.float32)
    copy_weights(source, target)
    hidden = torch.randn(9, model.hidden_size, generator=torch.manual_seed(0))
    layers = zip(source.layers, target.layers, strict=True)
    for mine, theirs in layers:
        linears = (mine.qkv, theirs.qkv), (mine.output, theirs.output)
        for one, other in linears:
            assert torch.equal(one.weight, other.weight)
            assert one.bias is None or torch.equal(one.bias, other.bias)
        assert torch.equal(mine.before_attention, theirs.before_attention)
        assert torch.equal(mine.mlp(hidden), theirs.mlp(hidden))
        assert mine.q_norm is None or torch.equal(mine.q_norm, theirs.q_norm)
    assert torch.equal(source.head.weight, target.head.weight)
    parameters = sum(file.stat().st_size for file in checkpoints[family].glob("*.safetensors"))
    assert weight_bytes(model, torch.float32) == pytest.approx(parameters, rel=0.05)


@pytest.mark.parametrize("family", ["qwen2", "qwen3moe"])
def test_weights_for_a_gpu_are_read_on_the_host_in_its_layout(
    family: str, checkpoints: dict[str, Path]
) -> None:
    """A running engine's weights on a GPU are overwritten by those of another checkpoint."""
    model = ModelConfig.from_folder(checkpoints[family])
    with open_tensors(checkpoints[family], model) as stored:
        there = decoder_of(stored, torch.float32, torch.device("meta"))  # laid out as on a GPU
        host = decoder_of(stored, torch.float32, runs_on=torch.device("cuda"))
        packed = decoder_of(stored, torch.float32)
    assert host.device.type == "cpu"
    copy_weights(host, there)
    assert torch.equal(host.layers[0].qkv.weight, packed.layers[0].qkv.dense())
    x = torch.randn(5, model.hidden_size)
    for mine, other in zip(host.layers, packed.layers, strict=True):
        torch.testing.assert_close(mine.mlp(x), other.mlp(x), atol=1e-4, rtol=1e-4)
