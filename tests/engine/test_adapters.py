"""LoRA adapters: peft is the oracle, and what is not reproduced is refused by name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma3Config
from typer.testing import CliRunner

from gsr_engine import CheckpointError, Engine, InvalidRequest, SamplingParams, UnsupportedModel
from gsr_engine.checkpoint.digest import weights_digest
from gsr_engine.checkpoint.files import find_adapter
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import tensor_shapes
from gsr_engine.cli.commands import app
from gsr_engine.execution.loading import open_weights
from gsr_engine.model.decoder import Mlp
from gsr_engine.model.linear import Int8Linear
from gsr_engine.model.weights import decoder_of

peft = pytest.importorskip("peft")

IDS = [5, 6, 7, 8, 40, 41, 90, 3]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def make_adapter(base: Path, folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """An adapter of peft's own making, with random values everywhere."""
    usual = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]}
    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        peft.LoraConfig(task_type="CAUSAL_LM", **{**usual, **settings}),
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Tensors]


def peft_logits(base: Path, adapter: Path) -> torch.Tensor:
    """Of the adapted model as it was trained: the adapter beside the weights, not merged."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        logits = peft.PeftModel.from_pretrained(model, adapter)(torch.tensor([IDS])).logits
        return torch.log_softmax(logits[0, -1], -1)


def engine_logits(base: Path, adapter: Path | None) -> dict[int, float]:
    with Engine.from_pretrained(base, adapter=adapter, dtype="float32") as engine:
        return last_logits(engine)


def last_logits(engine: Engine) -> dict[int, float]:
    """The log-probabilities of the 20 tokens that are most likely to follow."""
    params = SamplingParams(max_tokens=1, temperature=0.0, top_logprobs=20)
    (tops,) = engine.generate([IDS], params)[0].completions[0].top_logprobs or []
    return dict(tops)


def worst(found: dict[int, float], expected: torch.Tensor) -> float:
    return max(abs(value - float(expected[token])) for token, value in found.items())


KINDS: dict[str, dict[str, Any]] = {
    "every linear, rslora": {"target_modules": "all-linear", "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "k_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {r"^model\.layers\.0\.self_attn\.k_proj": 11, "q_proj": 1},
    },
    "head": {"target_modules": ["v_proj", "lm_head"]},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "saved embedding and norm": {"modules_to_save": ["embed_tokens", "input_layernorm"]},
}


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])  # one is tied, the other has a head
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_it_is_pefts_model(
    kind: str, family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    base = checkpoints[family]
    adapter = make_adapter(base, tmp_path / "adapter", **KINDS[kind])
    expected = peft_logits(base, adapter)
    assert worst(engine_logits(base, adapter), expected) < 1e-4
    assert worst(engine_logits(base, None), expected) > 0.05


@pytest.mark.filterwarnings("ignore")
def test_one_over_a_model_that_sees_images_counts_for_its_language_model(
    qwen2: Path, tmp_path: Path
) -> None:
    base, vision = tmp_path / "base", {"image_size": 28, "patch_size": 14, **SMALL}
    config = Gemma3Config(
        text_config={**SMALL, "vocab_size": 101, "head_dim": 16, "num_key_value_heads": 1},
        vision_config={**vision, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
    )
    AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(qwen2 / name, base)
    model = peft.get_peft_model(
        AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval(),
        peft.LoraConfig(task_type="CAUSAL_LM", target_modules=".*language_model.*q_proj"),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.ones_like(parameter))
        expected = torch.log_softmax(model(input_ids=torch.tensor([IDS])).logits[0, -1], -1)
    model.save_pretrained(tmp_path / "adapter")
    assert worst(engine_logits(base, tmp_path / "adapter"), expected) < 1e-4
    assert worst(engine_logits(base, None), expected) > 0.01


@pytest.fixture(scope="module")
def plain(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that the tests below take as it is, or copy and spoil."""
    return make_adapter(qwen2, tmp_path_factory.mktemp("adapter") / "plain")


def test_tensors_are_merged_in_fp32_and_rounded_once(qwen2: Path, plain: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.float32)
    expected = peft.PeftModel.from_pretrained(base, plain).merge_and_unload().state_dict()
    with open_weights(qwen2, ModelConfig.from_folder(qwen2), plain) as stored:
        assert stored.config.tie_embeddings
        for name, shape in tensor_shapes(stored.config):
            torch.testing.assert_close(
                stored.read(name, shape), expected[name], atol=1e-5, rtol=1e-5
            )
        name = "model.layers.0.mlp.down_proj.weight"
        mlp = decoder_of(stored, torch.bfloat16).layers[0].mlp
        assert isinstance(mlp, Mlp)
        down = mlp.down.dense()
        merged = stored.read(name, tuple(down.shape))
        assert torch.equal(down, merged.bfloat16())
        mlp = decoder_of(stored, torch.float32, quantization="int8").layers[0].mlp
        assert isinstance(mlp, Mlp)
        assert torch.equal(mlp.down.dense(), Int8Linear.of(merged).dense())


def spoiled(plain: Path, folder: Path, config: dict[str, Any], tensors: Change) -> Path:
    shutil.copytree(plain, folder)
    raw = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**raw, **config}))
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(tensors(weights), folder / "adapter_model.safetensors")
    return folder


def same(tensors: Tensors) -> Tensors:
    return tensors


def renamed(old: str, new: str) -> Change:
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def without(text: str) -> Change:
    return lambda tensors: {name: one for name, one in tensors.items() if text not in name}


@pytest.mark.parametrize(
    ("config", "tensors", "error", "message"),
    [
        ({"use_dora": True}, same, UnsupportedModel, "use_dora True is not supported"),
        ({"bias": "all"}, same, UnsupportedModel, "bias 'all' is not supported, only 'none'"),
        ({"lora_bias": True}, same, UnsupportedModel, "lora_bias"),
        ({"peft_type": "IA3"}, same, UnsupportedModel, "peft_type 'IA3'"),
        ({"task_type": "SEQ_CLS"}, same, UnsupportedModel, "task_type 'SEQ_CLS'"),
        ({"layer_replication": [[0, 2]]}, same, UnsupportedModel, "layer_replication"),
        ({"target_parameters": ["a"]}, same, UnsupportedModel, "target_parameters"),
        ({"init_lora_weights": "pissa"}, same, UnsupportedModel, "changes the base model's"),
        ({"r": 0}, same, CheckpointError, "r must be an integer from 1 to"),
        ({"lora_alpha": None}, same, CheckpointError, "lacks 'lora_alpha'"),
        ({"r": 3}, same, CheckpointError, r"has shape \(4, \d+\), .* imply \(3, \d+\)"),
        ({"rank_pattern": {"(": 2}}, same, CheckpointError, "'\\(' is no regular expression"),
        ({"alpha_pattern": {"q": "2"}}, same, CheckpointError, "alpha_pattern: q must be a number"),
        (
            {"rank_pattern": {r"(.|.)*[^\w.]": 2}},
            same,
            CheckpointError,
            "takes more than 0.5 s",
        ),
        ({}, renamed("q_proj", "w_proj"), UnsupportedModel, "w_proj.* belongs to no weight"),
        ({}, renamed("layers.2", "layers.3"), UnsupportedModel, "belongs to no weight"),
        ({}, renamed("lora_A", "lora_magnitude"), UnsupportedModel, "belongs to no weight"),
        ({}, renamed("q_proj", "q_norm"), UnsupportedModel, "belongs to no weight"),
        ({}, without("layers.1.mlp.down_proj.lora_B"), CheckpointError, "lacks its other half"),
        ({}, lambda _: {}, CheckpointError, "holds no tensors"),
    ],
)
def test_what_is_not_reproduced_is_refused_by_name(
    config: dict[str, Any],
    tensors: Change,
    error: type[CheckpointError],
    message: str,
    qwen2: Path,
    plain: Path,
    tmp_path: Path,
) -> None:
    folder = spoiled(plain, tmp_path / "adapter", config, tensors)
    with pytest.raises(error, match=message):
        Engine.from_pretrained(qwen2, adapter=folder)


def test_what_is_missing_or_misplaced_is_named(qwen2: Path, plain: Path, tmp_path: Path) -> None:
    for adapter, error, message in (
        (tmp_path / "nowhere", CheckpointError, "nowhere is not a folder"),
        (7, InvalidRequest, "adapter: must be a path or a text, got 7"),
        (qwen2, CheckpointError, r"has no adapter_config\.json"),
    ):
        with pytest.raises(error, match=message):
            Engine.from_pretrained(qwen2, adapter=adapter)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="Give the folder as adapter="):
        Engine.from_pretrained(plain)
    folder = Path(shutil.copytree(plain, tmp_path / "old"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks adapter_model\.safetensors"):
        Engine.from_pretrained(qwen2, adapter=folder)
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors cannot be read"):
        Engine.from_pretrained(qwen2, adapter=folder)


def test_the_folders_other_files(
    qwen2: Path, plain: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Its gsr.json counts; a tokenizer of its own and another base are named."""
    changes = {"base_model_name_or_path": "somebody/else", "warmth": 7}
    folder = spoiled(plain, tmp_path / "adapter", changes, same)
    replace(GsrConfig(), num_candidates=(3, 3), trained=True).save(folder)
    shutil.copy(qwen2 / "tokenizer.json", folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    os.mkfifo(folder / "vocab.json")  # whoever reads it waits forever
    with Engine.from_pretrained(qwen2, adapter=folder) as engine:
        assert engine.gsr.num_candidates == (3, 3)
    told = "\n".join(str(one.message) for one in recwarn)
    assert "trained over somebody/else, and is merged into" in told
    unread = r"'adapter': not read, though .* model's: vocab\.json, chat_template\.jinja\n"
    assert re.search(unread, told)
    assert "adapter_config.json: not read: warmth" in told


def test_reload_takes_one_too(qwen2: Path, plain: Path) -> None:
    with Engine.from_pretrained(qwen2, dtype="float32") as engine:
        before = last_logits(engine)
        engine.reload_weights(qwen2, adapter=plain)
        assert last_logits(engine) == engine_logits(qwen2, plain) != before
        engine.reload_weights(qwen2)
        assert last_logits(engine) == before


def test_the_digest_counts_its_tensors_and_its_scale(
    qwen2: Path, plain: Path, tmp_path: Path
) -> None:
    other = spoiled(plain, tmp_path / "other", {"lora_alpha": 7}, same)
    another = spoiled(plain, tmp_path / "another", {}, lambda t: {n: 2 * x for n, x in t.items()})
    digests = {weights_digest(qwen2, one) for one in (None, plain, other, another)}
    assert len(digests) == 4
    assert weights_digest(qwen2, Path(shutil.copytree(plain, tmp_path / "copy"))) in digests


def test_the_hub_gives_what_is_read(monkeypatch: pytest.MonkeyPatch, plain: Path) -> None:
    fetch = Mock(return_value=str(plain))
    monkeypatch.setattr("gsr_engine.checkpoint.files.snapshot_download", fetch)
    assert find_adapter("somebody/adapter") == plain
    wanted = ["adapter_config.json", "adapter_model.safetensors", "gsr.json", "chat_template.jinja"]
    others = ["adapter_model.bin", "optimizer.pt", "checkpoint-9/adapter_model.safetensors"]
    patterns = fetch.call_args.kwargs["allow_patterns"]
    assert [*filter_repo_objects([*wanted, *others], allow_patterns=patterns)] == wanted


def test_the_commands_take_one(qwen2: Path, plain: Path) -> None:
    """Each loads the adapter: one that is nowhere is refused by all of them."""
    model, nowhere = ["--model", str(qwen2)], ["--adapter", "./nowhere"]
    bench, prompt = ["bench", str(qwen2)], ["abc", *model]
    for command in (["solve", *prompt], ["generate", *prompt], bench):
        refused = CliRunner().invoke(app, [*command, *nowhere])
        assert "nowhere is not a folder" in str(refused.exception)
    flags = ["--raw", "--max-tokens", "8", "--temperature", "0", "--dtype", "float32", "--json"]
    told = CliRunner().invoke(app, ["generate", *prompt, *flags, "--adapter", str(plain)])
    with Engine.from_pretrained(qwen2, adapter=plain, dtype="float32") as engine:
        greedy = SamplingParams(max_tokens=8, temperature=0.0)
        expected = engine.generate("abc", greedy)[0].completions[0].text
    assert expected in [one["text"] for one in json.loads(told.stdout)["completions"]]
