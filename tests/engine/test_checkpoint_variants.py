"""What a checkpoint's files may say in many ways is read as transformers reads it, or refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoConfig

from benchmarks.oracle import causal_logits
from gsr_engine import CheckpointError, Engine, EngineConfig, InvalidRequest, SamplingParams
from gsr_engine.checkpoint.families import FAMILIES
from gsr_engine.checkpoint.files import INDEX, find_checkpoint
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.errors import UnsupportedModel
from gsr_engine.execution.loading import load_parts
from tests.helpers.checkpoints import load_oracle
from tests.helpers.recorder import Recorder
from tests.helpers.variants import (
    EMBEDDING,
    HEAD,
    VARIANTS,
    change_config,
    change_tensors,
    make_variant,
)

pytestmark = pytest.mark.slow

PROMPT = torch.randint(100, (70,), generator=torch.Generator().manual_seed(1)).tolist()
BASE = {
    "vocab_size": 101,
    "hidden_size": 512,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
}


def load_warned(folder: Path, **options: Any) -> tuple[Engine, str]:
    """The engine and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine = Engine.from_pretrained(folder, **options)
    return engine, "\n".join(str(one.message) for one in caught)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_to_say_it_gives_the_logits_of_transformers(
    name: str, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_variant(name, checkpoints, tmp_path / "variant")
    recorder = Recorder(monkeypatch, range(100))
    with load_warned(folder)[0] as engine:
        engine.generate([PROMPT], SamplingParams(max_tokens=1, ignore_eos=True))
    (got,) = recorder.logits.values()
    expected = causal_logits(load_oracle(folder), PROMPT)[-1]
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tied, own head", r"lm_head\.weight differs from the embedding: it is used"),
        ("tied, equal head", None),
        ("stored frequencies", None),
        (
            "a tensor that no family has",
            r"tensors not read: model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        ("an index beside the file", r"index\.json: not read"),
        ("rope_scaling beside rope_parameters", "not read: rope_parameters"),
        ("fields without effect", None),
    ],
)
def test_what_is_not_read_is_said(
    name: str, said: str | None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    engine, text = load_warned(make_variant(name, checkpoints, tmp_path / "variant"))
    engine.close()
    if said is None:
        assert text == ""
    else:
        assert re.search(said, text)


def test_fields_that_nobody_knows_are_named(qwen2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(qwen2, tmp_path / "m"))
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2, 3]}
    change_config(folder, zebra=1, rope_parameters=rope, layers_of_cake=None)
    engine, text = load_warned(folder)
    engine.close()
    assert text == "config.json: not read: zebra, rope_parameters.mrope_section"


@pytest.mark.parametrize("architecture", ["Olmo3ForCausalLM", "Gemma3ForCausalLM"])
def test_rope_parameters_of_no_type_of_layer_are_named(architecture: str) -> None:
    """Transformers does not read them either where the rotation differs by layer."""
    rope = {"rope_type": "linear", "factor": 8.0, "sliding_attention": {"rope_type": "default"}}
    plain = {**BASE, "architectures": [architecture]}
    config = ModelConfig.from_dict({**plain, "rope_parameters": rope})
    assert config == ModelConfig.from_dict(plain)
    named = "config.json: not read: rope_parameters.rope_type, rope_parameters.factor"
    assert config.notes == (named,)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["Gemma2ForCausalLM"]}, "architecture Gemma2ForCausalLM"),
        ({"architectures": ["Qwen3NextForCausalLM"]}, "Next.* no rule joins the states"),
        ({"architectures": ["Mistral3ForConditionalGeneration"]}, "text_config of type None"),
        ({"model_type": "ministral"}, "model_type 'ministral' is not that of Qwen2ForCausalLM"),
        ({"final_logit_softcapping": 30.0}, r"final_logit_softcapping 30\.0"),
        ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping 50\.0"),
        ({"logits_scaling": 8.0}, r"logits_scaling 8\.0 is not supported, only 1"),
        ({"embedding_multiplier": 12}, "embedding_multiplier 12"),
        ({"attention_multiplier": 0.1}, r"attention_multiplier 0\.1"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar 256"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5"),
        ({"num_local_experts": 8}, "num_local_experts 8"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"use_qk_norm": True}, "use_qk_norm True"),
        ({"no_rope_layers": [1, 0]}, r"no_rope_layers \[1, 0\]"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, only 'silu'"),
        ({"dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"layer_types": ["full_attention", "chunked", "full_attention"]}, "layer_types must say"),
    ],
)
def test_what_changes_the_computation_is_refused_by_name(
    changes: dict[str, Any], named: str, qwen2: Path
) -> None:
    raw = json.loads((qwen2 / "config.json").read_text())
    with pytest.raises(UnsupportedModel, match=named):
        ModelConfig.from_dict(raw | changes)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: {n: one for n, one in t.items() if n != HEAD}, f"has no tensor {HEAD}"),
        (lambda t: {n: one for n, one in t.items() if n != EMBEDDING}, f"no tensor {EMBEDDING}"),
        (lambda t: {f"a.{n}": one for n, one in t.items()}, f"no tensor {EMBEDDING}"),
        (lambda t: t | {HEAD: torch.zeros(7, 48)}, r"lm_head\.weight has shape \(7, 48\)"),
    ],
)
def test_weights_that_are_missing_or_of_another_shape(
    change: Any, named: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Transformers would begin with random values instead."""
    folder = Path(shutil.copytree(checkpoints["llama3"], tmp_path / "m"))
    change_tensors(folder, change)
    with pytest.raises(CheckpointError, match=named):
        Engine.from_pretrained(folder)


def test_an_adapter_beside_the_weights_is_refused(qwen2: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(qwen2, tmp_path / "m"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"adapter_config\.json: adapters are not applied"):
        Engine.from_pretrained(folder)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": 64},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": None},
        {"tie_word_embeddings": True},
        {"sliding_window": 8},
        {"sliding_window": None},
        {"sliding_window": 8, "use_sliding_window": True},
        {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2},
        {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 2},
        {
            "original_max_position_embeddings": 64,
            "rope_scaling": {"rope_type": "yarn", "factor": 2, "llama_4_scaling_beta": 0.1},
        },
        {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default"}},
        {"rope_theta": 5e5, "rope_local_base_freq": 7.0},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"sliding_window_pattern": 2, "no_rope_layer_interval": 2},
    ],
)
def test_shapes_are_those_of_transformers(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Defaults of absent fields, null, windows and rope, family by family."""
    kind = FAMILIES[architecture].model_type
    raw = {**BASE, "architectures": [architecture], "model_type": kind, "num_hidden_layers": 4}
    (tmp_path / "config.json").write_text(json.dumps(raw | changes))
    try:
        theirs = AutoConfig.from_pretrained(tmp_path)
        theirs.standardize_rope_params()  # as their rotary embedding does
    except (StrictDataclassError, ValueError, KeyError):
        pytest.skip("transformers refuses it")
    if "llama_4_scaling_beta" not in theirs.rope_parameters and kind == "ministral3":
        with pytest.raises(CheckpointError, match="rope parameters lacks"):  # transformers crashes
            ModelConfig.from_folder(tmp_path)
        return
    family = FAMILIES[architecture]
    types = getattr(theirs, "layer_types", None) if "layer_types" in family.window_fields else None
    used = getattr(theirs, "use_sliding_window", True) and getattr(theirs, "sliding_window", None)
    if "sliding_attention" in (types or ()) and not used:
        with pytest.raises(UnsupportedModel, match="no sliding_window is in use"):
            ModelConfig.from_folder(tmp_path)
        return
    ours = ModelConfig.from_folder(tmp_path)
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert (ours.num_kv_heads, ours.head_dim) == (theirs.num_key_value_heads, head_dim)
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    usual = "sliding_attention" if "sliding_window" in family.window_fields else "full_attention"
    rotates = getattr(theirs, "no_rope_layers", None) or [1] * 4
    for layer, type_ in enumerate(types or [usual] * 4):
        slides = type_ == "sliding_attention"
        assert ours.layers[layer].window == (theirs.sliding_window if slides else None)
        rope = theirs.rope_parameters
        stated = rope.get(type_, rope).items() if rotates[layer] else ()
        found = ours.layers[layer].rope or {}
        for name, value in stated:
            assert name in ("type", "max_position_embeddings") or found.get(name, 1.0) == value


def test_layers_without_rotation_may_slide(tmp_path: Path) -> None:
    changes = {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 8}
    raw = {**BASE, "architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 4, **changes}
    layers = ModelConfig.from_dict(raw).layers
    assert [kind.window for kind in layers] == [None, 8, None, 8]
    assert [kind.rope is None for kind in layers] == [False, True, False, True]
    theirs = AutoConfig.for_model("smollm3", **{**BASE, "num_hidden_layers": 4, **changes})
    assert [kind == "sliding_attention" for kind in theirs.layer_types] == [0, 1, 0, 1]
    with pytest.raises(CheckpointError, match="no_rope_layers must be 0 or 1 for 4 layers"):
        ModelConfig.from_dict(raw | {"no_rope_layers": [1, 0, 2, 1]})


def test_yarn_stretches_the_context_and_the_error_says_so() -> None:
    raw = {**BASE, "architectures": ["Qwen2ForCausalLM"]}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    stretched = ModelConfig.from_dict({**raw, "rope_scaling": yarn})
    assert EngineConfig().model_length(stretched) == 4096
    with pytest.raises(InvalidRequest, match=r"checkpoint's 4096 \(yarn: factor 4 times 1024"):
        EngineConfig(max_model_len=4097).model_length(stretched)
    with pytest.raises(InvalidRequest, match=r"1024 \(.* a rope_scaling of type yarn"):
        EngineConfig(max_model_len=4096).model_length(ModelConfig.from_dict(raw))


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16", "torch.float32", None])
def test_auto_is_the_stored_dtype(
    stored: str | None, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bf16 is multiplied; fp16 runs in bf16 and says so."""
    monkeypatch.setattr("gsr_engine.model.linear.has_bf16_products", lambda: True)
    folder = Path(shutil.copytree(qwen2, tmp_path / "m"))
    change_config(folder, dtype=stored)
    if stored is None:
        change_tensors(folder, lambda t: {name: one.bfloat16() for name, one in t.items()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoder, _, _ = load_parts(folder, EngineConfig())
    text = "\n".join(str(one.message) for one in caught)
    exact = stored in ("float32", "torch.float32")
    assert decoder.dtype == (torch.float32 if exact else torch.bfloat16)
    assert ("float16 checkpoint runs in bfloat16" in text) == (stored == "float16")


def test_the_hub_gives_what_is_read(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    others = ["consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin"]
    wanted = [
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ]
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}))
    fetch = Mock(return_value=str(tmp_path))
    monkeypatch.setattr("gsr_engine.checkpoint.files.snapshot_download", fetch)
    find_checkpoint("somebody/model")
    patterns = fetch.call_args.kwargs["allow_patterns"]
    names = [*wanted, *shards, *others, "params.json", "trainer_state.json"]
    assert [*filter_repo_objects(names, allow_patterns=patterns)] == [*wanted, *shards]
    assert fetch.call_args.kwargs["revision"] == tmp_path.name  # the commit of the first call
