"""A newcomer adds a family as EXTENDING.md says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gsr_engine
from benchmarks.oracle import causal_logits
from gsr_engine import Engine, SamplingParams
from gsr_engine.checkpoint.families import FAMILIES, Family
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import UnsupportedModel
from gsr_engine.model.rope import rotary_order
from gsr_engine.model.weights import load_decoder
from tests.helpers import checkpoints
from tests.helpers.recorder import Recorder

pytestmark = pytest.mark.slow

TEXT = (Path(gsr_engine.__file__).parent / "EXTENDING.md").read_text()


def test_the_entry_that_the_page_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checkpoints.FAMILIES, "seed_oss", {"head_dim": 16})
    folder = checkpoints.make_checkpoint(tmp_path / "c", "seed_oss")
    with pytest.raises(UnsupportedModel, match="SeedOssForCausalLM is not supported"):
        Engine.from_pretrained(folder)
    found = re.search(r"```python\n(FAMILIES\[.*?)```", TEXT, re.DOTALL)
    assert found
    with monkeypatch.context() as patched:
        patched.setitem(FAMILIES, "SeedOssForCausalLM", FAMILIES["LlamaForCausalLM"])
        exec(found[1], {"FAMILIES": FAMILIES, "Family": Family})  # noqa: S102
        raw = {**json.loads((folder / "config.json").read_text()), "attention_out_bias": True}
        with pytest.raises(UnsupportedModel, match=r"attention_out_bias True .* only False"):
            ModelConfig.from_dict(raw)
        token_ids = list(range(5, 60))
        with Engine.from_pretrained(folder) as engine:
            recorder = Recorder(patched, range(5, 90))
            engine.generate([token_ids], SamplingParams(max_tokens=1))
    ((row,),) = recorder.logits.values()
    expected = causal_logits(checkpoints.load_oracle(folder), token_ids)[-1]
    torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_biases_follow_the_rows_of_a_head_that_rotates_in_part(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No family has both yet."""
    raw = json.loads((qwen2 / "config.json").read_text())
    whole = ModelConfig.from_dict(raw)
    entry = FAMILIES["Qwen2ForCausalLM"]
    partial = replace(entry, partial_rotary=True, reads=("partial_rotary_factor",))
    monkeypatch.setitem(FAMILIES, "Qwen2ForCausalLM", partial)
    model = ModelConfig.from_dict(raw | {"partial_rotary_factor": 0.5})
    x = torch.randn(5, model.hidden_size)
    outputs = []
    for config in (whole, model):
        qkv = load_decoder(qwen2, config, torch.float32).layers[0].qkv
        assert qkv.bias is not None
        outputs.append(qkv(x).view(5, -1, model.head_dim))
    expected, found = outputs
    order = rotary_order(model.rope, model.head_dim)
    assert order is not None
    rotated = model.num_heads + model.num_kv_heads
    assert torch.equal(found[:, :rotated], expected[:, :rotated, order])
    assert torch.equal(found[:, rotated:], expected[:, rotated:])
