"""The loop resumes to the last bit, stops on request, and refuses what is of another run."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from gsr_engine import (
    CheckpointError,
    Engine,
    GsrError,
    InvalidRequest,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.checkpoint.gsr_config import GsrConfig
from tests.helpers.tiny import make_examples, plain_losses, tiny_config, write_set
from tests.helpers.variants import EMBEDDING, change_config, change_tensors
from train.command import Interrupted
from train.sft import parse, train
from train.trainer.batches import Plan
from train.trainer.config import SftConfig
from train.trainer.loop import TrainingDiverged
from train.trainer.optimizer import clip_gradients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, qwen2: Path) -> Path:
    return write_set(tmp_path_factory.mktemp("data"), qwen2, problems=8, held_out=2)


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def test_a_step_is_a_plain_adamw_step(data: Path, qwen2: Path, tmp_path: Path) -> None:
    """The first step of a run against transformers, torch.optim and the same rows."""
    config = tiny_config(qwen2, data, tmp_path, steps=1, warmup=0, final_lr=1.0, log_every=1)
    train(config)
    rows = [example.row for example in make_examples(qwen2, 8)]
    chosen = Plan([row.objective for row in rows], config.batch, config.seed).rows(0)
    losses, gradients = plain_losses(qwen2, [rows[index] for index in chosen])
    before = load_file(qwen2 / "model.safetensors")
    parameters = {name: before[name].clone().requires_grad_() for name in gradients}
    for name, parameter in parameters.items():
        parameter.grad = gradients[name]
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
    matrices = [p for p in parameters.values() if p.dim() > 1]
    vectors = [p for p in parameters.values() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": config.decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2)).step()
    line = log_of(tmp_path)[0]
    assert line["loss_direct"] == pytest.approx(float(losses[0]), abs=1e-4)
    assert line["loss_refine"] == pytest.approx(float(losses[1]), abs=1e-4)
    assert line["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    trained = weights(tmp_path)
    for name, parameter in parameters.items():
        # Adam's first step is the sign of the gradient: where that is rounding, so is the step.
        sure = gradients[name].abs() > 1e-3
        torch.testing.assert_close(trained[name][sure], parameter.detach()[sure], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lora", [0, 4])
def test_an_interrupted_run_ends_with_the_same_weights(
    data: Path,
    qwen2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lora: int,
) -> None:
    """SIGTERM after the third step; the same command goes on, to the last bit."""
    caplog.set_level("INFO", "train")
    if lora:
        pytest.importorskip("peft")
    dropout = {"lora_dropout": 0.3} if lora else {}
    settings: dict[str, Any] = {"steps": 6, "save_every": 2, "log_every": 1, "lora": lora}
    settings |= dropout
    train(tiny_config(qwen2, data, tmp_path / "whole", **settings))
    broken = tiny_config(qwen2, data, tmp_path / "broken", **settings)
    steps = count()

    def signalled(*args: Any) -> float:
        if next(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return clip_gradients(*args)

    with monkeypatch.context() as patched:
        patched.setattr("train.trainer.loop.clip_gradients", signalled)
        with pytest.raises(Interrupted, match="step 3 is saved under") as stopped:
            train(broken)
    assert stopped.value.number == signal.SIGTERM
    assert any("SIGTERM: stopping after this step" in line for line in caplog.messages)
    assert [line["step"] for line in log_of(broken.out)] == [1, 2, 3]
    assert not (broken.out / "model").exists()
    train(broken)
    assert "sft: goes on from step 3" in caplog.messages
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    saved = sorted((broken.out / "checkpoints").iterdir())
    assert len(saved) <= broken.keep
    held = FileSystemReader(saved[-1]).read_metadata().state_dict_metadata
    names = [name for name in held if name.startswith("model.")]
    assert names
    assert all(".lora_" in name for name in names) == bool(lora)  # not the tied head either


def test_a_crash_while_a_checkpoint_is_written_leaves_the_one_before(
    data: Path, qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train")
    config = tiny_config(qwen2, data, tmp_path, steps=4, save_every=2)
    train(config)
    before = weights(tmp_path)
    checkpoints = tmp_path / "checkpoints"
    last = checkpoints / "step-00000004"
    last.rename(last.with_suffix(".partial"))
    (last.with_suffix(".partial") / ".metadata").unlink()
    train(config)
    assert "sft: goes on from step 2" in caplog.messages
    assert all(torch.equal(weights(tmp_path)[name], before[name]) for name in before)


def test_what_changes_the_weights_does_not_resume_but_the_rest_does(
    data: Path, qwen2: Path, tmp_path: Path
) -> None:
    config = tiny_config(qwen2, data, tmp_path, steps=1)
    train(config)
    with pytest.raises(CheckpointError, match="another lr"):
        train(replace(config, lr=0.5))
    train(replace(config, keep=1, log_every=3))


def test_the_trained_model_is_what_it_says(data: Path, qwen2: Path, tmp_path: Path) -> None:
    """Losses fall on rows that are learnt, the folder loads in the engine with both layouts, and a
    report card tells of it.
    """
    config = tiny_config(
        qwen2, data, tmp_path, epochs=12, lr=3e-3, log_every=4, eval_every=10, trackers=()
    )
    train(config)
    log = log_of(tmp_path)
    training = [line for line in log if "loss" in line]
    assert training[-1]["loss_direct"] < 0.5 * training[0]["loss_direct"]
    assert training[-1]["loss_refine"] < 0.5 * training[0]["loss_refine"]
    assert sum(sum(line["rows"].values()) for line in training) == 12 * 24
    assert all(line["skipped"] == 0 for line in training)
    held_out = [line for line in log if "held_out_direct" in line]
    assert [line["step"] for line in held_out] == [*range(10, training[-1]["step"], 10), 48]
    folder = tmp_path / "model"
    assert GsrConfig.from_folder(folder) == GsrConfig.from_folder(data)
    with Engine.from_pretrained(folder) as engine:
        short = SamplingParams(max_tokens=9)
        params = SelfRefineParams(k=3, layout="branched", seed=0, candidate=short)
        assert engine.self_refine(["1 + 1"], params)[0].text
    report = (tmp_path / "report.md").read_text()
    assert "held" in report.lower()
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_held_out_losses_are_those_of_transformers(data: Path, qwen2: Path, tmp_path: Path) -> None:
    config = tiny_config(qwen2, data, tmp_path, steps=1, lr=1e-12)
    train(config)
    rows = [example.row for example in make_examples(qwen2, 2, seed=1)]
    expected, _ = plain_losses(qwen2, rows)
    line = log_of(tmp_path)[-1]
    assert line["held_out_direct"] == pytest.approx(float(expected[0]), abs=1e-4)
    assert line["held_out_refine"] == pytest.approx(float(expected[1]), abs=1e-4)


def test_token_normalisation_is_one_mean_over_all_targets(
    data: Path, qwen2: Path, tmp_path: Path
) -> None:
    config = tiny_config(qwen2, data, tmp_path, steps=1, objective_norm="token", log_every=1)
    train(config)
    rows = [example.row for example in make_examples(qwen2, 8)]
    chosen = Plan([row.objective for row in rows], config.batch, config.seed).rows(0)
    _, gradients = plain_losses(qwen2, [rows[index] for index in chosen], norm="token")
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert log_of(tmp_path)[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def test_steps_whose_gradients_are_not_finite_are_skipped_then_the_run_stops(
    data: Path, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = count()
    broken: set[int] = {1}

    def poisoned(model: torch.nn.Module, limit: float) -> float:
        if next(steps) in broken:
            next(p for p in model.parameters() if p.grad is not None).grad.mul_(float("nan"))
        return clip_gradients(model, limit)

    monkeypatch.setattr("train.trainer.loop.clip_gradients", poisoned)
    config = tiny_config(qwen2, data, tmp_path / "one", steps=3, log_every=1, max_skipped=2)
    train(config)
    assert [line["skipped"] for line in log_of(config.out) if "loss" in line] == [0, 1, 0]
    assert all(tensor.isfinite().all() for tensor in weights(config.out).values())
    steps = count()
    broken.add(2)
    with pytest.raises(TrainingDiverged, match="2 steps in a row"):
        train(replace(config, out=tmp_path / "two"))


def test_selfref_is_measured_with_the_weights_as_they_are(
    data: Path, qwen2: Path, tmp_path: Path
) -> None:
    problems = tmp_path / "problems.jsonl"
    asked = [{"problem": f"{i} + 1", "answer": str(i + 1)} for i in range(2)]
    problems.write_text("".join(json.dumps(one) + "\n" for one in asked))
    config = tiny_config(
        qwen2,
        data,
        tmp_path / "run",
        steps=2,
        eval_every=1,
        selfref=problems,
        selfref_k=2,
        selfref_tokens=8,
    )
    train(config)
    lines = [line["selfref"] for line in log_of(config.out) if "selfref" in line]
    assert len(lines) == 2
    assert all(set(line) == {"pass@1", "maj@k", "linear", "branched", "problems"} for line in lines)
    evaluated = load_file(config.out / "evaluated" / "model.safetensors")
    assert all(torch.equal(evaluated[n], t) for n, t in weights(config.out).items())


def test_settings_come_from_a_file_and_flags_go_over_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[sft]\nmodel = "m"\ndata = "d"\nlr = 2e-5\ntrackers = ["tensorboard"]\n')
    config, dry = parse(["--config", str(file), "--out", "o", "--lr", "0.5", "--dry-run"])
    assert dry == (None, None, None)
    places = {"model": "m", "data": Path("d"), "out": Path("o")}
    expected = SftConfig(**places, lr=0.5, trackers=("tensorboard",))  # type: ignore[arg-type]
    assert config == expected
    assert SftConfig.from_dict(config.as_dict()) == config
    with pytest.raises(SystemExit):
        parse(["--config", str(file)])  # no --out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", -1.0), ("batch", 0), ("dtype", "float8"), ("objective_norm", "mean"), ("beta2", 1.0),
        ("checkpointing", "some"), ("trackers", ("paper",)), ("final_lr", 2.0), ("colour", "red"),
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(field: str, value: object) -> None:
    values = {"model": "m", "data": "d", "out": "o", field: value}
    with pytest.raises(InvalidRequest, match=f"^{field}"):
        SftConfig.from_dict(values)


def test_data_of_another_tokenizer_are_refused(data: Path, qwen2: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    for file in qwen2.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "tokenizer.json").write_text((qwen2 / "tokenizer.json").read_text() + " ")
    with pytest.raises(InvalidRequest, match="another tokenizer"):
        train(tiny_config(other, data, tmp_path / "run"))


def test_rows_longer_than_a_pack_and_missing_trackers_are_refused(
    data: Path, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match="pack: a row has"):
        train(tiny_config(qwen2, data, tmp_path / "short", pack=50))
    monkeypatch.setattr("train.trainer.trackers.find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match="needs wandb: pip install wandb"):
        train(tiny_config(qwen2, data, tmp_path / "w", trackers=("wandb",)))


def test_tensorboard_gets_the_same_numbers(data: Path, qwen2: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(qwen2, data, tmp_path, steps=2, log_every=1, trackers=("tensorboard",))
    train(config)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("loss_direct")]
    assert values == pytest.approx([line["loss_direct"] for line in log_of(tmp_path)[:2]])


def test_lora_exports_the_model_with_its_adapters_merged(
    data: Path, qwen2: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    config = tiny_config(qwen2, data, tmp_path, epochs=6, lr=1e-2, lora=4)
    train(config)
    log = [line for line in log_of(tmp_path) if "held_out_direct" in line]
    rows = [example.row for example in make_examples(qwen2, 2, seed=1)]
    losses, _ = plain_losses(tmp_path / "model", rows)
    assert log[-1]["held_out_direct"] == pytest.approx(float(losses[0]), abs=1e-3)
    before = load_file(qwen2 / "model.safetensors")
    changed = {n for n, t in weights(tmp_path).items() if not torch.equal(t, before[n])}
    assert changed
    assert all("proj" in name for name in changed)
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GraniteForCausalLM"]}, "architecture GraniteForCausalLM"),
        (
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0},
            "window of 16",
        ),
        ({"vocab_size": 60}, "data: a row has token id .*, the model's embedding ends at 59"),
    ],
)
def test_what_the_model_does_not_reproduce_is_refused_before_the_run(
    change: dict[str, Any], message: str, data: Path, qwen2: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(qwen2, tmp_path / "m"))
    if "vocab_size" in change:
        change_tensors(model, lambda t: t | {EMBEDDING: t[EMBEDDING][:60].clone()})
    change_config(model, layer_types=..., **change)
    with pytest.raises(GsrError, match=message):
        train(tiny_config(model, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_not_read_of_the_checkpoint_is_said(
    data: Path, qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train")
    model = Path(shutil.copytree(qwen2, tmp_path / "m"))
    change_config(model, zebra=1)
    change_tensors(model, lambda t: t | {"zebra.weight": torch.zeros(1)})
    train(tiny_config(model, data, tmp_path / "out", steps=1))
    assert "sft: config.json: not read: zebra" in caplog.messages
    assert "sft: m: tensors not read: zebra.weight" in caplog.messages
