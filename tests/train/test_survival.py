"""What a run survives: damaged files, a full disk, steps without gradients; and what it refuses."""

from __future__ import annotations

import gc
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsr_engine import CheckpointError, GsrError, InvalidRequest
from tests.helpers.tiny import tiny_config, write_set
from train.sft import train
from train.trainer.checkpoints import restore_config
from train.trainer.checksums import find_damage
from train.trainer.config import SftConfig
from train.trainer.loop import TrainingDiverged
from train.trainer.optimizer import clip_gradients
from train.trainer.report import read_log

pytestmark = pytest.mark.slow

STEPS: dict[str, Any] = {"steps": 4, "save_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, qwen2: Path) -> Path:
    return write_set(tmp_path_factory.mktemp("data"), qwen2, problems=4, held_out=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, qwen2: Path, data: Path) -> SftConfig:
    """A run that is done."""
    config = tiny_config(qwen2, data, tmp_path_factory.mktemp("whole") / "run", **STEPS)
    train(config)
    return config


@pytest.fixture
def run(whole: SftConfig, tmp_path: Path) -> SftConfig:
    """A copy of it, whose model is still to be exported."""
    shutil.copytree(whole.out, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    return replace(whole, out=tmp_path / "run")


def weights(config: SftConfig) -> dict[str, torch.Tensor]:
    return load_file(config.out / "model" / "model.safetensors")


def same(one: SftConfig, other: SftConfig) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zero(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def newest(config: SftConfig) -> Path:
    return config.out / "checkpoints" / "step-00000004"


@pytest.mark.parametrize("harm", [cut, empty, zero, flip, Path.unlink])
def test_damage_of_any_file_is_found(run: SftConfig, harm: Callable[[Path], None]) -> None:
    files = sorted(newest(run).iterdir())
    assert {file.name for file in files} == {
        *(".metadata", "__0_0.distcp", "checksums.json", "config.json")
    }
    for file in files:
        copy = run.out / "copy"
        shutil.copytree(newest(run), copy)
        assert find_damage(copy, 0, 1) == ""
        harm(copy / file.name)
        assert find_damage(copy, 0, 1) != "", file.name
        shutil.rmtree(copy)
    assert find_damage(copy, 0, 1) != ""


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    run: SftConfig, whole: SftConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train")
    flip(newest(run) / "__0_0.distcp")
    train(run)
    assert f"sft: the checkpoint {newest(run)} is left out: __0_0.distcp is damaged" in caplog.text
    assert "sft: goes on from step 2" in caplog.messages
    assert same(run, whole)
    assert find_damage(newest(run), 0, 1) == ""
    assert newest(run).with_suffix(".damaged").exists()


def test_without_a_whole_checkpoint_it_does_not_begin_anew_by_itself(run: SftConfig) -> None:
    for folder in newest(run).parent.iterdir():
        cut(folder / ".metadata")
    before = sorted(newest(run).parent.iterdir())
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints .* are damaged; remove"):
        train(run)
    assert sorted(newest(run).parent.iterdir()) == before


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """No file grows beyond a size; Python gets an error, as from a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


# Torch leaves a writer behind that Python 3.13 complains of when it is collected: here, not later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_once_there_is_room(
    whole: SftConfig, tmp_path: Path
) -> None:
    run = replace(whole, out=tmp_path / "run")
    message = "step-00000002 cannot be written: .*File too large"
    with full_disk(30_000), pytest.raises(CheckpointError, match=message):
        train(run)
    assert not list((run.out / "checkpoints").iterdir())  # the room is free again
    train(run)
    assert same(run, whole)
    shutil.rmtree(run.out / "model")
    with full_disk(30_000), pytest.raises(GsrError, match="the training is done"):
        train(run)
    gc.collect()


JUNK = {
    "another object": b'{"a": 1}\n',
    "a number": b"7\n",
    "binary": b"\xff\xfe\n",
    "zeros": bytes(64),
    "a line of zeros": bytes(64) + b"\n",
    "torn": b'{"step": 4, "lo',
    "nulls": b'{"step": null, "loss": 1}\n',
    "text for numbers": b'{"step": 5, "held_out_direct": "x"}\n',
    "deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_what_no_run_wrote_into_the_log_is_left_out(run: SftConfig, junk: bytes) -> None:
    file = run.out / "log.jsonl"
    before = read_log(file)
    file.write_bytes(file.read_bytes() + junk)
    assert read_log(file) == before


def test_a_log_that_is_gone_is_no_reason_to_fail_after_the_training(
    run: SftConfig, whole: SftConfig
) -> None:
    (run.out / "log.jsonl").unlink()
    train(run)
    assert same(run, whole)
    assert "no line of a step" in (run.out / "report.md").read_text()


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff\xfe", bytes(99), b'{"lr": 0.0', None])
def test_settings_that_are_damaged_or_gone_are_taken_from_a_checkpoint(
    run: SftConfig, whole: SftConfig, text: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train")
    config = run.out / "config.json"
    config.unlink() if text is None else config.write_bytes(text)
    (newest(run) / "config.json").write_bytes(b"{")
    restore_config(run.out)
    assert config.read_bytes() == (whole.out / "config.json").read_bytes()
    assert str(newest(run).with_name("step-00000002")) in caplog.text


def test_a_run_goes_on_without_its_config(run: SftConfig, whole: SftConfig) -> None:
    (run.out / "config.json").write_bytes(b"")
    train(run)
    assert same(run, whole)
    (run.out / "config.json").unlink()
    with pytest.raises(CheckpointError, match="another run, with another batch"):
        train(replace(run, batch=3))


@pytest.mark.parametrize("text", [b"", b"[]", None])
def test_checkpoints_of_an_unknown_run_are_refused(run: SftConfig, text: bytes | None) -> None:
    for config in run.out.rglob("config.json"):
        config.unlink() if text is None else config.write_bytes(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        train(run)


def test_another_object_in_its_place_is_another_run(run: SftConfig) -> None:
    (run.out / "config.json").write_bytes(b'{"a": 1}')
    with pytest.raises(CheckpointError, match="another run"):
        train(run)


@pytest.mark.parametrize("lora", [0, 2])
def test_a_run_has_one_base_wherever_that_lies(
    data: Path, qwen2: Path, tmp_path: Path, lora: int
) -> None:
    if lora:
        pytest.importorskip("peft")
    config = tiny_config(qwen2, data, tmp_path / "run", steps=1, lora=lora)
    train(config)
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(qwen2, moved)
    train(replace(config, model=str(moved)))
    shutil.copytree(qwen2, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="another model_digest"):
        train(replace(config, model=str(other)))


def test_a_start_that_fails_leaves_nothing(
    data: Path, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    for wrong in ({"pack": 50}, {"shard": 3}, {"selfref": tmp_path / "none.jsonl"}):
        with pytest.raises(InvalidRequest):
            train(tiny_config(qwen2, data, out, **wrong))
    with monkeypatch.context() as patched:  # the first step needs more memory than there is
        patched.setattr("train.trainer.loop.clip_gradients", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny_config(qwen2, data, out, batch=4))
    assert not out.exists()
    train(tiny_config(qwen2, data, out, batch=6, steps=1))
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match=r"^out: "):
        train(tiny_config(qwen2, data, tmp_path / "file"))


EXTREMES: dict[str, dict[str, Any]] = {
    "a row a step": {"batch": 1, "steps": 3, "seed": 2**63 - 1},
    "checkpoints all the time": {"keep": 1, "save_every": 1, "steps": 2, "save_minutes": 1e-9},
    "a step of all rows": {
        "batch": 10_000, "epochs": 1e-6, "steps": 0, "warmup": 1e9,
        "log_every": 0, "eval_every": 0, "save_every": 0, "save_minutes": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", EXTREMES.values(), ids=EXTREMES)
def test_every_allowed_value_runs(
    data: Path, qwen2: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = tiny_config(qwen2, data, tmp_path / "run", **{"steps": 2, "log_every": 1, **settings})
    train(config)
    lines = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert all(sum(line["rows"].values()) >= 1 for line in lines if "rows" in line)
    assert all(tensor.isfinite().all() for tensor in weights(config).values())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", "6"), ("batch", 2.5), ("batch", True), ("steps", None), ("lr", "fast"),
        ("warmup", float("inf")), ("decay", float("nan")), ("epochs", float("inf")), ("seed", -1),
        ("compile", "yes"), ("trackers", "wandb"), ("save_minutes", -1.0), ("model", 7),
        ("data", ["a"]), ("seed", 2**70), ("lora_dropout", "x"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_named(field: str, value: object) -> None:
    values = {"model": "m", "data": "d", "out": "o", "lora": 2, field: value}
    with pytest.raises(InvalidRequest, match=f"^{field}"):
        SftConfig.from_dict(values)


def test_a_run_whose_steps_are_all_skipped_exports_nothing(
    data: Path, qwen2: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(qwen2, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    config = tiny_config(broken, data, tmp_path / "run", steps=3, max_skipped=5)
    with pytest.raises(TrainingDiverged, match="3 steps in a row, up to step 3"):
        train(config)
    assert not (config.out / "model").exists()


def test_a_skipped_step_is_json_and_keeps_the_norm_of_the_others(
    data: Path, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []

    def second_is_poisoned(model: torch.nn.Module, limit: float) -> float:
        if len(norms) == 1:
            next(p for p in model.parameters() if p.grad is not None).grad.mul_(float("nan"))
        norms.append(clip_gradients(model, limit))
        return norms[-1]

    monkeypatch.setattr("train.trainer.loop.clip_gradients", second_is_poisoned)
    for every in (1, 3):
        norms.clear()
        config = tiny_config(qwen2, data, tmp_path / str(every), steps=3, log_every=every)
        train(config)

        def no_json(constant: str) -> float:
            raise AssertionError(f"{constant} is no JSON")

        text = (config.out / "log.jsonl").read_text().splitlines()
        lines = [json.loads(line, parse_constant=no_json) for line in text]
        found = [line["grad_norm"] for line in lines if "loss" in line]
        mean = (norms[0] + norms[2]) / 2
        expected = [norms[0], None, norms[2]] if every == 1 else [mean]
        assert found == [one if one is None else pytest.approx(one, abs=1e-5) for one in expected]
        assert (
            "| steps skipped (gradients not finite) | 1 |" in (config.out / "report.md").read_text()
        )


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no gsr.json": lambda data: (data / "gsr.json").unlink(),
    "a broken gsr.json": lambda data: (data / "gsr.json").write_text("{"),
    "a card of zeros": lambda data: (data / "card.json").write_bytes(bytes(50)),
    "a card of a list": lambda data: (data / "card.json").write_text("[]"),
    "a card without a tokenizer": lambda data: (data / "card.json").write_text("{}"),
    "an empty arrow file": lambda data: empty(next((data / "train").glob("*.arrow"))),
    "a cut arrow file": lambda data: cut(next((data / "held_out").glob("*.arrow"))),
    "no arrow file": lambda data: next((data / "train").glob("*.arrow")).unlink(),
    "a broken state.json": lambda data: (data / "train" / "state.json").write_text("x"),
    "no train split": lambda data: shutil.rmtree(data / "train"),
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_damaged_data_are_refused_before_anything_is_loaded(
    data: Path,
    qwen2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], object],
) -> None:
    shutil.copytree(data, tmp_path / "data")
    harm(tmp_path / "data")
    monkeypatch.setattr("train.sft.build_model", None)
    with pytest.raises(GsrError, match="data"):
        train(tiny_config(qwen2, tmp_path / "data", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_what_the_engine_refuses_in_an_evaluation_does_not_end_the_training(
    data: Path, qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"problem": "1 + " * 5000, "answer": "2"}) + "\n")
    config = tiny_config(qwen2, data, tmp_path / "run", steps=1, selfref=problems, selfref_k=2)
    train(config)
    assert any("selfRef@k is not measured at step 1: " in line for line in caplog.messages)
    problems.write_text('{"problem": "1 + 1", "answer": null, "id": "one"}\n')
    with pytest.raises(InvalidRequest, match=r"^selfref: .* problem one has no answer"):
        train(replace(config, out=tmp_path / "other"))


def test_auto_is_what_the_machine_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SftConfig(model="m", data=Path(), out=Path())
    for able, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("train.trainer.config.has_bf16_products", lambda able=able: able)
        assert config.on(torch.device("cpu")).dtype == dtype
        assert config.on(torch.device("cuda")).dtype == "bfloat16"
        chosen = replace(config, dtype="bfloat16")
        assert chosen.on(torch.device("cpu")) == chosen
