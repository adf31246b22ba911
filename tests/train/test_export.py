"""The trained model is a folder that transformers and the engine load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gsr_engine import Engine, SamplingParams
from tests.helpers.tiny import tiny_config
from train.trainer.export import export_model
from train.trainer.model import build_model, load_weights, read_model_config
from train.trainer.world import joined

pytestmark = pytest.mark.slow

IDS = [[5, 6, 7, 8, 40, 41]]


@pytest.mark.parametrize("shard_bytes", [20_000, 2**32])
@pytest.mark.parametrize("family", ["qwen2", "llama3"])
def test_a_model_that_was_loaded_and_exported_is_the_same(
    family: str, shard_bytes: int, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """In one file or many; logits and tokens to the last bit; nothing but weights is rewritten."""
    source, folder = checkpoints[family], tmp_path / "model"
    with joined() as world:
        config = tiny_config(source, tmp_path, tmp_path)
        trainee = build_model(read_model_config(source), config, world.mesh(0))
        load_weights(trainee, source)
        export_model(trainee, folder, source, dtype=torch.float32, shard_bytes=shard_bytes)
    assert len(list(folder.glob("*.safetensors"))) > 1 or shard_bytes == 2**32
    assert not list(tmp_path.glob("*.partial"))
    before, after = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32) for one in (source, folder)
    )
    with torch.no_grad():
        assert torch.equal(before(torch.tensor(IDS)).logits, after(torch.tensor(IDS)).logits)
    params = SamplingParams(max_tokens=8, seed=1)
    answers = []
    for one in (source, folder):
        with Engine.from_pretrained(one) as engine:
            answers.append(engine.generate(IDS, params)[0].completions[0].token_ids)
    assert answers[0] == answers[1]
    assert AutoTokenizer.from_pretrained(folder).get_vocab()
    ours, theirs = (json.loads((one / "config.json").read_text()) for one in (folder, source))
    ours.pop("dtype"), theirs.pop("dtype", None)
    assert ours == theirs


def test_bf16_is_written_as_bf16_and_said_so(qwen2: Path, tmp_path: Path) -> None:
    with joined() as world:
        config = tiny_config(qwen2, tmp_path, tmp_path)
        trainee = build_model(read_model_config(qwen2), config, world.mesh(0))
        load_weights(trainee, qwen2)
        (tmp_path / "gsr.json").write_text("{}")
        for _ in range(2):  # over what is there already
            extra = [tmp_path / "gsr.json"]
            export_model(trainee, tmp_path / "m", qwen2, dtype=torch.bfloat16, extra=extra)
    written = load_file(tmp_path / "m" / "model.safetensors")
    before = load_file(qwen2 / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name].bfloat16()) for name in before)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (tmp_path / "m" / "gsr.json").read_text() == "{}"
