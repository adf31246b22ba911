"""What a run would take: parameters as published, memory as it adds up, no weights needed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from gsr_engine import CheckpointError, InvalidRequest
from tests.helpers.tiny import tiny_config
from train.sft import parse
from train.trainer.dry_run import ModelSize, dry_run, model_shape
from train.trainer.model import read_model_config

pytestmark = pytest.mark.slow

EXPECTED = {"rows": 1000, "tokens_per_row": 2000, "targets_per_row": 500}


@pytest.mark.parametrize(("size", "billions"), [("7B", 7.616), ("14B", 14.770), ("32B", 32.764)])
def test_the_recipes_models_have_the_parameters_that_they_are_known_for(
    size: str, billions: float
) -> None:
    found = ModelSize.of(model_shape(f"Qwen/Qwen2.5-{size}-Instruct"))
    assert found.parameters / 1e9 == pytest.approx(billions, abs=1e-3)
    assert found.trained == found.parameters
    assert found.saved["full"] < found.saved["selective"] < found.saved["none"]


def test_the_state_is_16_bytes_per_parameter_over_the_shards(qwen2: Path) -> None:
    config = tiny_config(qwen2, qwen2, qwen2)
    size = ModelSize.of(read_model_config(qwen2))
    one, four = (size.bytes_per_gpu(config, shards) for shards in (1, 4))
    sharded = [kind for kind in one if "sharded" in kind]
    assert sum(one[kind] for kind in sharded) == 16 * size.parameters
    assert all(four[kind] == one[kind] / (4 if kind in sharded else 1) for kind in one)
    longer = size.bytes_per_gpu(replace(config, pack=2 * config.pack), 1)
    assert longer["activations kept"] == 2 * one["activations kept"]


def test_lora_trains_and_holds_next_to_nothing(qwen2: Path) -> None:
    pytest.importorskip("peft")
    size = ModelSize.of(read_model_config(qwen2), lora=2)
    assert size.trained < size.parameters / 4
    config = tiny_config(qwen2, qwen2, qwen2)
    whole = ModelSize.of(read_model_config(qwen2)).bytes_per_gpu(config, 1)
    adapted = size.bytes_per_gpu(replace(config, lora=2), 1)
    assert sum(adapted.values()) < sum(whole.values())


def test_it_prints_steps_and_hours_of_what_is_expected_or_built(
    qwen2: Path, tmp_path: Path
) -> None:
    config = tiny_config(qwen2, tmp_path, tmp_path, batch=10, epochs=3, pack=4000)
    console = Console(record=True, width=120)
    dry_run(config, 8, EXPECTED, console)
    text = console.export_text()
    for fact in ("1,000 of 2,000 tokens", "300 of 10 rows (3.00 epochs)", "6,000,000", "20,000"):
        assert fact in text, fact
    split = {"rows": 40, "tokens": 4000, "target_tokens": 400}
    (tmp_path / "card.json").write_text(json.dumps({"splits": {"train": split}}))
    dry_run(config, 8, EXPECTED, console)
    assert "of the data's card" in console.export_text()


def test_the_flag_reads_the_recipes_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[expected]\nrows = 5\n[sft]\nmodel = "m"\ndata = "d"\nout = "o"\n')
    config, dry = parse(["--config", str(file), "--dry-run", "16"])
    assert (config.model, dry) == ("m", (16, {"rows": 5}))
    assert parse(["--config", str(file)])[1] is None


def test_no_weights_are_fetched(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Mock(return_value=str(qwen2))
    monkeypatch.setattr("gsr_engine.checkpoint.files.snapshot_download", fetch)
    assert model_shape("somebody/model").model_type == "qwen2"
    assert not any("safetensors" in one for one in fetch.call_args.kwargs["allow_patterns"])


def test_what_is_not_known_is_named(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not built"):
        dry_run(tiny_config(qwen2, tmp_path, tmp_path), 8, None, Console(quiet=True))
    with pytest.raises(CheckpointError, match="no checkpoint within reach"):
        model_shape("nobody/nothing")
