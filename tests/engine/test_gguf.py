"""A GGUF file is the checkpoint that it was made from: shape, weights, rope, refusals."""

from __future__ import annotations

import builtins
import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gsr_engine import CheckpointError, Engine, SamplingParams, UnsupportedModel
from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.generation_config import GenerationConfig
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import StoredTensors, open_tensors
from gsr_engine.model.decoder import Mlp
from gsr_engine.model.linear import Int8Linear
from gsr_engine.model.weights import decoder_of, load_decoder
from tests.helpers.checkpoints import LLAMA3
from tests.helpers.gguf_files import add_tensor, tiny_model, write_gguf
from train.trainer.model import read_model_config

pytestmark = pytest.mark.slow

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
# Transformers does not read the size of a head of Qwen3 from a file; 128 is its default.
FAMILIES = {"llama": {"tie_word_embeddings": True}, "qwen2": {}, "qwen3": {"head_dim": 128}}


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def file(llama: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama)


def read_all(path: Path, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Every tensor of the model, as the engine and the trainer read it."""
    with open_tensors(path, ModelConfig.from_folder(path)) as stored:
        return {name: read(stored, name, tensor) for name, tensor in written(model).items()}


def read(stored: StoredTensors, name: str, like: torch.Tensor) -> torch.Tensor:
    return stored.read(name, tuple(like.shape))


def written(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    tied = model.config.tie_word_embeddings
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_equal_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    model = tiny_model(family, **FAMILIES[family])
    path = write_gguf(tmp_path / "tiny.gguf", model, kind)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).state_dict()
    ours = read_all(path, model)
    for name, tensor in ours.items():
        assert torch.equal(tensor.float(), theirs[name]), name
    if kind == "F32":  # then the way there and back changes nothing
        for name, tensor in written(model).items():
            assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_package(
    kind: str, llama: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a tensor is dequantised in pieces, the last of which is shorter."""
    path = write_gguf(tmp_path / "tiny.gguf", llama, kind)
    monkeypatch.setattr("gsr_engine.checkpoint.gguf.weights.AT_ONCE", 3 * 256)
    ours = read_all(path, llama)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        expected = gguf.dequantize(stored[theirs].data, stored[theirs].tensor_type)
        assert np.array_equal(ours[name].float().numpy(), expected), name


@pytest.mark.parametrize(("kind", "dtype"), [("F32", "float32"), ("BF16", "bfloat16")])
def test_the_shape_is_that_of_the_checkpoint(kind: str, dtype: str, tmp_path: Path) -> None:
    for family, config in FAMILIES.items():
        model = tiny_model(family, **config)
        model.save_pretrained(tmp_path / family)
        path = write_gguf(tmp_path / f"{family}.gguf", model, kind)
        ours, theirs = ModelConfig.from_folder(path), ModelConfig.from_folder(tmp_path / family)
        assert ours.dtype == dtype
        for name in ModelConfig.__dataclass_fields__:
            if name not in ("dtype", "rms_norm_eps", "notes"):
                assert getattr(ours, name) == getattr(theirs, name), name
        assert ours.rms_norm_eps == pytest.approx(theirs.rms_norm_eps)
        assert ours.notes == ()


def test_a_mistral_with_a_window(llama: PreTrainedModel, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", llama, llama__attention__sliding_window=128)
    config = ModelConfig.from_folder(path)
    assert (config.architecture, config.shortest_window) == ("MistralForCausalLM", 128)


def test_llama3s_frequencies_are_found_in_their_divisors(tmp_path: Path) -> None:
    rope = {**LLAMA3, "factor": 32.0, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=131072)
    path = write_gguf(tmp_path / "tiny.gguf", model)
    plain = rope["rope_theta"] ** -(torch.arange(0, 64, 2) / 64)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    divisors = (plain / scaled).numpy()
    add_tensor(path, "rope_freqs.weight", divisors)
    assert ModelConfig.from_folder(path).rope == rope
    add_tensor(path, "rope_freqs.weight", np.ones_like(divisors))
    assert ModelConfig.from_folder(path).rope["rope_type"] == "default"
    add_tensor(path, "rope_freqs.weight", divisors * 1.01)
    with pytest.raises(UnsupportedModel, match=r"rope_freqs\.weight holds other divisors"):
        ModelConfig.from_folder(path)


def test_yarn(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf",
        tiny_model("qwen2"),
        qwen2__rope__scaling__type="yarn",
        qwen2__rope__scaling__factor=4.0,
        qwen2__rope__scaling__original_context_length=256,
    )
    config = ModelConfig.from_folder(path)
    assert config.max_position == 1024
    assert {"rope_type": "yarn", "factor": 4.0}.items() <= config.rope.items()


@pytest.mark.parametrize(
    "fields",
    [
        {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
        {"llama__rope__scaling__factor": 4.0},
        {"llama__rope__scale_linear": 4.0},
    ],
)
def test_linear_scaling_in_its_three_spellings(
    fields: dict[str, Any], llama: PreTrainedModel, tmp_path: Path
) -> None:
    rope = ModelConfig.from_folder(write_gguf(tmp_path / "x.gguf", llama, **fields)).rope
    assert (rope["rope_type"], rope["factor"]) == ("linear", 4.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"general__architecture": "mamba"}, "architecture 'mamba' is not supported in a GGUF"),
        ({"general__type": "adapter"}, "is of type 'adapter', not a model"),
        ({"split__count": 3}, "is one part of several"),
        (
            {"llama__rope__scaling__type": "longrope"},
            "'longrope' is not supported in a GGUF without",
        ),
        ({"llama__rope__scaling__attn_factor": 1.5}, "rope.scaling.attn_factor 1.5"),
        ({"llama__rope__dimension_count": 32}, "partial_rotary_factor 0.5"),
        ({"llama__attention__key_length": 32}, "values and keys of other sizes"),
        ({"llama__attention__value_length": 32}, "values and keys of other sizes"),
        ({"llama__attention__causal": False}, "attention.causal False"),
        ({"llama__attention__scale": 0.5}, "attention_scale 0.5"),
        ({"llama__attention__temperature_scale": 0.1}, "attention.temperature_scale 0.1"),
        (
            {
                "llama__attention__sliding_window": 64,
                "llama__attention__sliding_window_pattern": 6,
            },
            "sliding_window_pattern 6 is not supported for MistralForCausalLM",
        ),
        ({"llama__rope__freq_base_swa": 5.0}, "rope.freq_base_swa is not supported for Llama"),
        ({"llama__vocab_size": 999}, "vocab_size must be an integer from 1 to 305, got 999"),
        ({"llama__expert_count": 8}, "num_local_experts 8"),
        ({"llama__logit_scale": 0.25}, "logit_scale 0.25"),
        ({"llama__final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_reproduced_is_refused_by_name(
    fields: dict[str, Any], message: str, llama: PreTrainedModel, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", llama, **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_all(path, llama)
    assert "tiny.gguf" in str(caught.value)


def test_a_window_of_qwen_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", tiny_model("qwen2"), qwen2__attention__sliding_window=64)
    with pytest.raises(UnsupportedModel, match="sliding window"):
        ModelConfig.from_folder(path)


@pytest.mark.parametrize(
    ("name", "shape", "kind", "message"),
    [
        ("blk.0.attn_q.bias", (256,), "F32", "attention_bias True is not supported"),
        ("blk.1.ffn_up.bias", (256,), "F32", "mlp_bias True is not supported"),
        ("blk.0.attn_q_norm.weight", (64,), "F32", "tensors that LlamaForCausalLM has not"),
        ("rope_factors_long.weight", (32,), "F32", r"has not: rope_factors_long\.weight"),
        ("blk.7.attn_q.weight", (256, 256), "F32", r"has not: blk\.7\.attn_q\.weight"),
        ("output.weight", (420, 256), "Q5_0", r"output\.weight is of type Q5_0, which is not read"),
        ("output_norm.weight", (128,), "F32", r"output_norm\.weight has shape \(128,\)"),
    ],
)
def test_tensors_that_are_not_known_are_refused_by_name(
    name: str, shape: tuple[int, ...], kind: str, message: str, file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(file.read_bytes())
    own = gguf.GGMLQuantizationType[kind]
    add_tensor(path, name, gguf.quantize(np.ones(shape, np.float32), own), kind)
    with pytest.raises(CheckpointError, match=message):
        load_decoder(path, ModelConfig.from_folder(path), torch.float32)


def test_metadata_that_are_not_read_are_named(llama: PreTrainedModel, tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf",
        llama,
        llama__new_feature=1,
        general__author="somebody",
        tokenizer__ggml__precompiled_charsmap="x",
    )
    with open_tensors(path, ModelConfig.from_folder(path)) as stored:
        named = "llama.new_feature, tokenizer.ggml.precompiled_charsmap"
        assert stored.notes == (f"tiny.gguf: not read: {named}",)


def test_a_file_states_how_it_wants_to_be_sampled(llama: PreTrainedModel, tmp_path: Path) -> None:
    stated = {"temp": 0.5, "top_k": 20, "penalty_repeat": 1.5, "mirostat": 0}
    fields = {f"general__sampling__{name}": value for name, value in stated.items()}
    path = write_gguf(tmp_path / "tiny.gguf", llama, **fields)
    found = GenerationConfig.of_checkpoint(path)
    assert found.stated == {"temperature": 0.5, "top_k": 20}
    assert found.notes == (f"{path}: not applied: penalty_repeat=1.5",)
    assert GenerationConfig.of_checkpoint(path, "none") == GenerationConfig()
    beside = tmp_path / "tiny.generation_config.json"
    beside.write_text('{"top_p": 0.9}')  # written for this file by hand, so it counts alone
    assert GenerationConfig.of_checkpoint(path).stated == {"top_p": 0.9}


def test_what_lies_beside_a_file_has_its_name(llama: PreTrainedModel, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.Q8_0.gguf", llama)
    own = {"layouts": ["linear", "branched"]}
    (tmp_path / "gsr.json").write_text(json.dumps(own))
    assert not GsrConfig.from_folder(path).trained
    (tmp_path / "tiny.Q8_0.gsr.json").write_text(json.dumps(own))
    (tmp_path / "tiny.Q8_0.generation_config.json").write_text('{"eos_token_id": [7]}')
    with Engine.from_pretrained(path, kv_cache_gib=0.01) as engine:
        assert engine.gsr.layouts == ("linear", "branched")
        assert 7 in engine.tokenizer.stop_ids


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Q8_0", {}, "int8"),
        ("Q4_K", {}, "int8"),
        ("Q4_K", {"quantization": "none"}, "none"),
        ("F16", {}, "none"),
    ],
)
def test_a_quantised_file_runs_in_8_bits(
    kind: str, options: dict[str, Any], expected: str, llama: PreTrainedModel, tmp_path: Path
) -> None:
    """On a CPU, unless told otherwise; of the weights that its tensors stand for."""
    path = write_gguf(tmp_path / "tiny.gguf", llama, kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Engine.from_pretrained(path, device="cpu", kv_cache_gib=0.01, **options) as engine:
            assert engine.quantization == expected
            assert engine.generate([[1, 2, 3]], SamplingParams(max_tokens=4))[0].error is None
    told = [str(one.message) for one in caught]
    note = "a quantised file runs in int8; quantization='none' dequantises it"
    assert (note in told) == (expected == "int8")
    with open_tensors(path, ModelConfig.from_folder(path)) as stored:
        weight = stored.read("model.layers.1.mlp.down_proj.weight", (256, 256)).float()
        mlp = decoder_of(stored, torch.float32, quantization=engine.quantization).layers[1].mlp
    assert isinstance(mlp, Mlp)
    dense = Int8Linear.of(weight).dense() if expected == "int8" else weight
    assert torch.equal(mlp.down.dense(), dense)


def test_where_a_file_may_be(file: Path, tmp_path: Path) -> None:
    assert find_checkpoint(file) == find_checkpoint(str(file)) == file
    for name in ("missing.gguf", str(tmp_path / "missing.gguf"), "a\0b.gguf"):
        with pytest.raises(CheckpointError, match="is no file"):
            find_checkpoint(name)
    with pytest.raises(CheckpointError, match=r"has no config\.json; give tiny\.gguf in it"):
        find_checkpoint(file.parent)


def test_digests(llama: PreTrainedModel, file: Path, tmp_path: Path) -> None:
    other = write_gguf(tmp_path / "q.gguf", llama, "Q8_0", llama__context_length=64)
    assert weights_digest(file) != weights_digest(other)
    assert tokenizer_digest(file) == tokenizer_digest(other)
    third = write_gguf(tmp_path / "t.gguf", llama, tokenizer__ggml__add_bos_token=True)
    assert tokenizer_digest(file) != tokenizer_digest(third)


def test_a_file_is_not_trained(file: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf: a GGUF file is not trained"):
        read_model_config(file)


def test_without_the_package_the_extra_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return imported(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedModel, match=r"pip install 'gsr-engine\[gguf\]'"):
        ModelConfig.from_folder(file)
