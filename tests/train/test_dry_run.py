"""What a run would take: parameters as published, memory as it adds up, no weights needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from gsr_engine import CheckpointError, InvalidRequest
from tests.helpers.tiny import make_examples, tiny_config, write_set
from train.dataset import RowSet
from train.sft import parse
from train.trainer.batches import Plan
from train.trainer.dry_run import dry_run, model_shape
from train.trainer.model import read_model_config
from train.trainer.model_size import ModelSize

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
    one, four = (size.bytes_per_rank(config, shards, 2000, 500) for shards in (1, 4))
    sharded = [kind for kind in one if "sharded" in kind]
    assert sum(one[kind] for kind in sharded) == 16 * size.parameters
    assert all(four[kind] == one[kind] / (4 if kind in sharded else 1) for kind in one)
    longer = size.bytes_per_rank(config, 1, 4000, 500)
    assert longer["activations kept"] == 2 * one["activations kept"]


def test_lora_trains_and_holds_next_to_nothing(qwen2: Path) -> None:
    pytest.importorskip("peft")
    size = ModelSize.of(read_model_config(qwen2), lora=2)
    assert size.trained < size.parameters / 4
    config = tiny_config(qwen2, qwen2, qwen2)
    whole = ModelSize.of(read_model_config(qwen2)).bytes_per_rank(config, 1, 2000, 500)
    adapted = size.bytes_per_rank(replace(config, lora=2), 1, 2000, 500)
    assert sum(adapted.values()) < sum(whole.values())


def test_it_prints_steps_and_hours_of_what_is_expected_or_built(
    qwen2: Path, tmp_path: Path
) -> None:
    config = tiny_config(qwen2, tmp_path, tmp_path, batch=10, epochs=3, pack=4000)
    console = Console(record=True, width=120)
    dry_run(config, 8, "H100", EXPECTED, console)
    text = console.export_text()
    for fact in (
        "1,000 of 2,000 tokens", "300 of 10 rows (3.00 epochs)", "6,000,000", "20,000",
        "8 GPUs, H100", "989 TFLOP/s", "H200, 131 GiB",
    ):  # fmt: skip
        assert fact in text, fact


def test_by_default_it_speaks_of_this_machine_and_of_these_rows(
    qwen2: Path, tmp_path: Path
) -> None:
    data = write_set(tmp_path / "data", qwen2, problems=2)
    config = tiny_config(qwen2, data, tmp_path / "out", batch=2, save_every=7, keep=3)
    console = Console(record=True, width=120)
    dry_run(config, None, None, None, console)
    text = " ".join(console.export_text().split())  # a title with a long path is wrapped
    lengths = [len(example.row) for example in make_examples(qwen2, 2)]
    chosen = [Plan(RowSet.load(data).objectives, 2, 0).rows(step) for step in range(3)]
    longest = max(sum(lengths[index] for index in rows) for rows in chosen)
    size = ModelSize.of(read_model_config(qwen2))
    checkpoint = f"{12 * size.parameters / 2**30:,.1f} GiB each"
    for fact in (
        f"packs of up to {longest:,} tokens", "rows, of the data", "6 of ", "this machine",
        "1 process, float32", "every 7 steps and every 15 minutes", f"{checkpoint},", "for 3 and",
        "measured", "free here",
    ):  # fmt: skip
        assert fact in text, fact
    for foreign in ("H100", "989", "bf16", "bfloat16"):
        assert foreign not in text, foreign
    assert not (tmp_path / "out").exists()


def test_the_flag_reads_the_recipes_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[expected]\nrows = 5\n[sft]\nmodel = "m"\ndata = "d"\nout = "o"\n')
    config, dry = parse(["--config", str(file), "--dry-run", "16", "--gpu", "H200"])
    assert (config.model, dry) == ("m", (16, "H200", {"rows": 5}))
    assert parse(["--config", str(file)])[1] is None
    with pytest.raises(InvalidRequest, match=r"^gpu: is for --dry-run"):
        parse(["--config", str(file), "--gpu", "H100"])


def test_no_weights_are_fetched(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = Mock(return_value=str(qwen2))
    monkeypatch.setattr("gsr_engine.checkpoint.files.snapshot_download", fetch)
    assert model_shape("somebody/model").model_type == "qwen2"
    assert not any("safetensors" in one for one in fetch.call_args.kwargs["allow_patterns"])


def test_what_is_not_known_is_named(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not built"):
        dry_run(tiny_config(qwen2, tmp_path, tmp_path), 8, "H100", None, Console(quiet=True))
    with pytest.raises(InvalidRequest, match=r"^gpu: must be one of H100"):
        dry_run(tiny_config(qwen2, tmp_path, tmp_path), 8, "H1", EXPECTED, Console(quiet=True))
    with pytest.raises(CheckpointError, match="no checkpoint within reach"):
        model_shape("nobody/nothing")
