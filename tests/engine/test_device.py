"""The choice of the device, and the errors if a GPU is missing or too small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsr_engine import Engine, EngineConfig, InvalidRequest, OutOfMemory
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.execution.device import check_weights_fit, choose_device
from gsr_engine.model.weights import copy_weights, dummy_decoder, load_decoder, weight_bytes

GIB = 2**30


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(qwen2: Path) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidRequest, match="device: 'cuda' was asked for"):
        Engine.from_pretrained(qwen2, device="cuda")


def test_weights_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GIB, 16 * GIB))
    check_weights_fit(10 * GIB, EngineConfig())
    with pytest.raises(OutOfMemory, match=r"weights take 11\.0 GiB, and the GPU has 10\.0 GiB"):
        check_weights_fit(11 * GIB, EngineConfig())
    with pytest.raises(OutOfMemory, match=r"the GPU has 8\.0 GiB .* gpu_memory_utilization 0\.5"):
        check_weights_fit(9 * GIB, EngineConfig(gpu_memory_utilization=0.5))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3"])
def test_weights_are_counted_and_copied_whole(family: str, checkpoints: dict[str, Path]) -> None:
    model = ModelConfig.from_folder(checkpoints[family])
    source = load_decoder(checkpoints[family], model, torch.float32)
    target = dummy_decoder(model, torch.float32)
    copy_weights(source, target)
    layers = zip(source.layers, target.layers, strict=True)
    for mine, theirs in layers:
        linears = (mine.qkv, theirs.qkv), (mine.output, theirs.output)
        for one, other in (*linears, *zip(mine.mlp.linears(), theirs.mlp.linears(), strict=True)):
            assert torch.equal(one.weight, other.weight)
            assert one.bias is None or torch.equal(one.bias, other.bias)
        assert torch.equal(mine.before_attention, theirs.before_attention)
        assert mine.q_norm is None or torch.equal(mine.q_norm, theirs.q_norm)
    assert torch.equal(source.head.weight, target.head.weight)
    parameters = sum(file.stat().st_size for file in checkpoints[family].glob("*.safetensors"))
    assert weight_bytes(model, torch.float32) == pytest.approx(parameters, rel=0.05)
