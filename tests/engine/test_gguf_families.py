"""GGUF files of each family are the checkpoints that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.oracle import causal_logits
from gsr_engine import CheckpointError, Engine, SamplingParams, UnsupportedModel
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensor_names import tensor_shapes
from gsr_engine.checkpoint.tensors import open_tensors
from tests.helpers.checkpoints import YARN
from tests.helpers.gguf_files import add_tensor, tiny_model, write_gguf
from tests.helpers.recorder import Recorder

pytestmark = pytest.mark.slow

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0 + i / 32 for i in range(24)],
    "long_factor": [2.0 + i / 4 for i in range(24)],
}
GROWING = {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.25}
LAYERS = {"num_hidden_layers": 4, "sliding_window": 12}
TWO_ROPES = {
    "full_attention": {**YARN, "attention_factor": 1.25, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3moe": (
        "qwen3_moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 256,
            "norm_topk_prob": True,
        },
    ),
    "phi3": ("phi3", {"sliding_window": 20, "tie_word_embeddings": True}),
    "phi3-longrope": (
        "phi3",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.75,
            "sliding_window": None,
        },
    ),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {**LAYERS, "rope_parameters": TWO_ROPES}),
    "mistral3": ("mistral", {"sliding_window": None}),
    "ministral3": ("ministral3", {"rope_parameters": GROWING}),
    "gemma3": (
        "gemma3_text",
        {
            **LAYERS,
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 64,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
}


def make(family: str, **config: Any) -> PreTrainedModel:
    """A tiny model, with norms as the hub has them: in bf16."""
    kind, own = FAMILIES[family]
    model = tiny_model(kind, **{"pad_token_id": None, **own, **config})
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.copy_(parameter.bfloat16())
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_shape_and_weights_are_those_of_the_checkpoint(family: str, tmp_path: Path) -> None:
    model = make(family)
    model.save_pretrained(tmp_path / "folder")
    path = write_gguf(tmp_path / "tiny.gguf", model)
    ours, theirs = ModelConfig.from_folder(path), ModelConfig.from_folder(tmp_path / "folder")
    assert ours.rms_norm_eps == pytest.approx(theirs.rms_norm_eps)
    assert ours.notes == ()
    for name in ModelConfig.__dataclass_fields__:
        if name not in ("rms_norm_eps", "notes", "layers"):
            assert getattr(ours, name) == getattr(theirs, name), name
    assert [(kind.window, kind.experts) for kind in ours.layers] == [
        (kind.window, kind.experts) for kind in theirs.layers
    ]
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert_same_rope(one.rope, other.rope)
    with open_tensors(path, ours) as own, open_tensors(tmp_path / "folder", theirs) as other:
        assert own.notes == ()
        for name, shape in tensor_shapes(theirs):
            one, other_one = own.read(name, shape), other.read(name, shape)
            if theirs.family.norm_offset and name.endswith("norm.weight"):
                # A file holds the sum with 1, which is what the model multiplies with.
                one, other_one = one + 1, other_one + 1
            assert torch.equal(one, other_one), name


def assert_same_rope(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    """A file of Phi-3 states the attention factor that a config leaves to a formula."""
    assert (ours is None) == (theirs is None)
    for name in (ours or {}).keys() | (theirs or {}).keys():
        assert ours is not None
        assert theirs is not None
        if name == "attention_factor" and ours["rope_type"] == "longrope":
            assert ours[name] == pytest.approx((1 + np.log(16) / np.log(32)) ** 0.5)
        elif name not in ("truncate", "factor"):
            assert ours[name] == theirs[name], name


@pytest.mark.parametrize(
    ("family", "length"), [(one, 44) for one in FAMILIES] + [("phi3-longrope", 28)]
)
def test_logits_are_those_of_transformers(
    family: str, length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longrope takes its short factors if no context may have more than 32 tokens."""
    model = make(family)
    path = write_gguf(tmp_path / "tiny.gguf", model)
    model.set_attn_implementation("eager")
    prompt = torch.randint(300, (length - 4,), generator=torch.Generator().manual_seed(1)).tolist()
    options: dict[str, Any] = {"max_model_len": 32} if length < 32 else {}
    with Engine.from_pretrained(path, kv_cache_gib=0.01, **options) as engine:
        recorder = Recorder(monkeypatch, range(engine.limits.vocab_size))
        engine.generate([prompt], SamplingParams(max_tokens=4, ignore_eos=True, seed=1))
        (stream,) = recorder.logits
        expected = causal_logits(model, prompt + stream.segment.token_ids)
        got = recorder.of(stream)
        assert (got - expected[len(prompt) - 1 : -1]).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["qwen3moe", "phi3", "gemma3"])
def test_weights_equal_those_that_transformers_reads(family: str, tmp_path: Path) -> None:
    """Of quantised matrices; the types are tested with Llama."""
    model = make(family)
    path = write_gguf(tmp_path / "tiny.gguf", model, "Q8_0")
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, config=model.config
    )
    model.load_state_dict(theirs.state_dict())
    model.save_pretrained(tmp_path / "folder")
    config = ModelConfig.from_folder(path)
    with open_tensors(path, config) as own, open_tensors(tmp_path / "folder", config) as other:
        for name, shape in tensor_shapes(config):
            assert torch.equal(own.read(name, shape).float(), other.read(name, shape)), name


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K"])
def test_an_expert_is_read_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", make("qwen3moe"), kind)
    stack = next(
        one for one in gguf.GGUFReader(path).tensors if one.name == "blk.1.ffn_up_exps.weight"
    )
    expected = gguf.dequantize(stack.data, stack.tensor_type)
    seen: list[int] = []
    dequantize = gguf.dequantize
    monkeypatch.setattr(
        gguf, "dequantize", lambda data, kind: seen.append(data.size) or dequantize(data, kind)
    )
    with open_tensors(path, ModelConfig.from_folder(path)) as stored:
        for expert in (0, 3, 5):
            name = f"model.layers.1.mlp.experts.{expert}.up_proj.weight"
            assert np.array_equal(stored.read(name, (256, 256)).numpy(), expected[expert])
    assert seen == [stack.data.size // 6] * 3


def test_experts_of_another_number_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", make("qwen3moe"))
    add_tensor(path, "blk.0.ffn_down_exps.weight", np.ones((5, 256, 256), np.float32))
    with (
        pytest.raises(CheckpointError, match=r"ffn_down_exps\.weight has shape \(5, 256, 256\)"),
        open_tensors(path, ModelConfig.from_folder(path)),
    ):
        pass


def test_a_size_of_experts_that_is_not_stated(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "x.gguf", make("qwen3moe"), qwen3moe__expert_feed_forward_length=None
    )
    experts = ModelConfig.from_folder(path).experts
    assert experts is not None
    assert experts.intermediate_size == 128


def test_the_scale_of_gemma_3_of_27b(tmp_path: Path) -> None:
    """Its layers are its mark; the scores of all others are divided by the root of the head dim."""
    fields: dict[str, Any] = {"gemma3__attention__key_length": 128}
    fields["gemma3__attention__value_length"] = 128
    model = make("gemma3")
    path = write_gguf(tmp_path / "x.gguf", model, **fields)
    assert ModelConfig.from_folder(path).score_scale == 128**-0.5
    path = write_gguf(tmp_path / "x.gguf", model, gemma3__block_count=62, **fields)
    assert ModelConfig.from_folder(path).score_scale == (256 // 4) ** -0.5


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({}, [12, 12, 12, 12, 12, None]),
        ({"gemma3__attention__sliding_window_pattern": 3}, [12, 12, None] * 2),
        (
            {"gemma3__attention__sliding_window_pattern": [True, False] * 3},
            [12, None] * 3,
        ),
        ({"gemma3__attention__sliding_window": None}, [None] * 6),
    ],
    ids=["the family's", "number", "list", "no window"],
)
def test_which_layers_of_gemma_3_slide(
    fields: dict[str, Any], windows: list[int | None], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "x.gguf", make("gemma3"), **fields)
    config = ModelConfig.from_folder(path)
    assert [kind.window for kind in config.layers] == windows


def test_bases_of_layers_that_slide(tmp_path: Path) -> None:
    """Files from before there was a field for it: 10,000 in Gemma 3, the one base in OLMo 3."""
    for family, theta in (("gemma3", 10000.0), ("olmo3", 5000.0)):
        architecture = {"olmo3": "olmo2"}.get(family, family)
        own = {f"{architecture}__rope__freq_base_swa": None}
        config = ModelConfig.from_folder(write_gguf(tmp_path / "x.gguf", make(family), **own))
        assert (config.layers[0].rope or {})["rope_theta"] == theta


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("qwen3moe", {"expert_gating_func": 2}, "expert_gating_func 2 is not supported, only 1"),
        ("qwen3moe", {"expert_weights_norm": False}, "expert_weights_norm False"),
        ("qwen3moe", {"attention__sliding_window": 8}, "sliding window is not supported for Qwen3"),
        ("smollm3", {"attention__sliding_window": 8}, "sliding window is not supported for SmolLM"),
        (
            "phi3-longrope",
            {"rope__scaling__factor": 2.0},
            "rope.scaling.factor 2.0 beside longrope",
        ),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
        ("gemma3", {"attention__sliding_window_pattern": [True]}, "layer_types must say"),
        ("olmo2", {"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor 0.5"),
        (
            "mistral3",
            {"attention__temperature_scale": 0.1},
            "original_max_position_embeddings",
        ),
    ],
)
def test_what_is_not_reproduced_is_refused(
    family: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    prefix = family.split("-")[0] + "__"
    own = {prefix + name: value for name, value in fields.items()}
    path = write_gguf(tmp_path / "tiny.gguf", make(family), **own)
    with pytest.raises(CheckpointError, match=message) as caught:
        ModelConfig.from_folder(path)
    assert "tiny.gguf" in str(caught.value)


def test_factors_of_longrope_without_each_other(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", make("phi3"), phi3__rope__scaling__type="longrope")
    with pytest.raises(UnsupportedModel, match=r"without rope_factors_short\.weight and rope_fac"):
        ModelConfig.from_folder(path)
