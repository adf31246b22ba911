"""The trained model is a folder that transformers and the engine load."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from gsr_engine import Engine, SamplingParams
from tests.helpers.tiny import tiny_config, write_set
from tests.helpers.variants import make_variant
from train.dataset import RowSet
from train.trainer.batches import collate
from train.trainer.export import export_adapter, export_model
from train.trainer.held_out import HeldOutLosses
from train.trainer.model import build_model, load_weights, read_model_config
from train.trainer.world import joined

pytestmark = pytest.mark.slow

IDS = [[5, 6, 7, 8, 40, 41]]


@pytest.mark.parametrize("shard_bytes", [20_000, 2**32])
@pytest.mark.parametrize("family", ["qwen2", "llama3", "phi3", "gemma3"])
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


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor(IDS)).logits
        return logits


@pytest.mark.parametrize("name", ["tied, own head", "tied, head alone", "names of the base model"])
def test_heads_and_names_come_out_as_transformers_reads_them(
    name: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    source = make_variant(name, checkpoints, tmp_path / "source")
    with joined() as world:
        trainee = build_model(
            read_model_config(source), tiny_config(source, tmp_path, tmp_path), world.mesh(0)
        )
        load_weights(trainee, source)
        export_model(trainee, tmp_path / "model", source, dtype=torch.float32)
    before, after = (
        AutoModelForCausalLM.from_pretrained(one, dtype=torch.float32)
        for one in (source, tmp_path / "model")
    )
    assert torch.equal(logits_of(before), logits_of(after))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["tie_word_embeddings"] == (name == "tied, head alone")


def test_leftovers_stay_behind_and_others_can_read(qwen2: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(qwen2, tmp_path / "source"))
    for name in ("trainer_state.json", "README.txt", "tokenizer.model"):
        (source / name).write_text("{}")
    (source / "config.json").chmod(0o600)
    with joined() as world:
        trainee = build_model(
            read_model_config(source), tiny_config(source, tmp_path, tmp_path), world.mesh(0)
        )
        load_weights(trainee, source)
        before = os.umask(0o027)
        try:
            export_model(trainee, tmp_path / "model", source, dtype=torch.float32)
        finally:
            os.umask(before)
    files = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert files.keys() == {one.name for one in qwen2.iterdir()} | {"tokenizer.model"}
    assert set(files.values()) == {0o640}


def test_peft_loads_the_adapter_over_the_base_model(qwen2: Path, tmp_path: Path) -> None:
    """The same logits as the merged model; the adapters' scale is theirs, not the default. The
    engine takes it, too."""
    peft = pytest.importorskip("peft")
    config = tiny_config(qwen2, tmp_path, tmp_path, lora=2, lora_alpha=3)
    (tmp_path / "gsr.json").write_text("{}")
    with joined() as world:
        trainee = build_model(read_model_config(qwen2), config, world.mesh(0))
        load_weights(trainee, qwen2)
        with torch.no_grad():
            for name, parameter in trainee.named_parameters():
                if ".lora_B." in name:
                    parameter.add_(0.1)
        export_model(trainee, tmp_path / "model", qwen2, dtype=torch.float32)
        extra = [tmp_path / "gsr.json"]
        export_adapter(trainee, tmp_path / "adapter", config, extra=extra)
    merged = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    base = AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.float32)
    plain = logits_of(base)
    adapted = logits_of(peft.PeftModel.from_pretrained(base, tmp_path / "adapter"))
    torch.testing.assert_close(adapted, merged, atol=1e-4, rtol=1e-4)
    assert (adapted - plain).abs().max() > 0.1
    wanted = {"adapter_config.json", "adapter_model.safetensors", "gsr.json"}
    assert wanted <= {file.name for file in (tmp_path / "adapter").iterdir()}
    params = SamplingParams(max_tokens=4, temperature=0.0, top_logprobs=5)
    told = []
    for one, adapter in ((tmp_path / "model", None), (qwen2, tmp_path / "adapter")):
        with Engine.from_pretrained(one, adapter=adapter, dtype="float32") as engine:
            told.append(engine.generate(IDS, params)[0].completions[0])
    assert told[0].token_ids == told[1].token_ids
    assert told[0].logprobs == pytest.approx(told[1].logprobs, abs=1e-4)
    # transformers finds the base model by itself
    by_itself = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    torch.testing.assert_close(logits_of(by_itself), merged, atol=1e-4, rtol=1e-4)


def test_held_out_losses_drop_nothing(qwen2: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    write_set(tmp_path / "data", qwen2, problems=1, held_out=2)
    losses = []
    with joined() as world:
        for dropout in (0.0, 0.5):
            settings = {"lora": 2, "lora_dropout": dropout}
            config = tiny_config(qwen2, tmp_path / "data", tmp_path, **settings)
            trainee = build_model(read_model_config(qwen2), config, world.mesh(0))
            load_weights(trainee, qwen2)
            with torch.no_grad():
                for name, parameter in trainee.named_parameters():
                    if ".lora_B." in name:
                        parameter.add_(0.1)
                rows = RowSet.load(config.data, "held_out")
                losses.append(HeldOutLosses(rows, config, trainee, world)(0))
                batch = collate([rows[0]], torch.device("cpu"))
                dropped = [float(trainee(batch).sum()) for _ in range(2)]
            assert (dropped[0] != dropped[1]) == bool(dropout)
    assert losses[0] == losses[1]


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
