"""Several processes train like one, also after a signal, a failure or a resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.tiny import tiny_config, write_set
from train.sft import train
from train.trainer.config import SftConfig
from train.trainer.report import read_log

pytestmark = pytest.mark.slow

STEPS = 12


class Ranks:
    """`torchrun -m train.sft` with two ranks."""

    def __init__(self, config: SftConfig) -> None:
        flags = []
        for name, value in config.as_dict().items():
            if value not in (None, [], False):
                flags += [f"--{name.replace('_', '-')}", str(value)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        # A bare machine has no address for its own name.
        host = ["--standalone", "--local-addr", "127.0.0.1"]
        command = [*torchrun, *host, "-m", "train.sft", *flags]
        self.config = config
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> int:
        """The exit status, once they are done; ranks that hang are ended."""
        try:
            self.said, _ = self.process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        return self.process.returncode

    def signal_last_rank(self, number: signal.Signals, when: Callable[[], bool]) -> None:
        """Signal the last rank as soon as something holds."""
        while not when():
            assert self.process.poll() is None, "it ended before"
            time.sleep(0.02)
        launcher = self.process.pid
        ranks = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        os.kill(int(ranks[-1]), number)


def assert_same_steps(one: SftConfig, other: SftConfig) -> None:
    """Losses and the norm of the gradients: Adam's weights would hide a factor."""
    logs = [
        [entry for entry in read_log(config.out / "log.jsonl") if "loss" in entry]
        for config in (one, other)
    ]
    assert len(logs[0]) == len(logs[1]) == STEPS
    for mine, theirs in zip(*logs, strict=True):
        for name in ("loss_direct", "loss_refine", "grad_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3), (mine["step"], name)


def weights(config: SftConfig) -> dict[str, torch.Tensor]:
    return load_file(config.out / "model" / "model.safetensors")


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal to rounding: Adam divides by gradients that may be rounding themselves."""
    assert one.keys() == other.keys()
    for name in one:
        difference = (one[name] - other[name]).abs()
        assert difference.mean() < 1e-5, name
        assert difference.max() < 2e-3, name


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, qwen2: Path) -> SftConfig:
    folder = tmp_path_factory.mktemp("ranks")
    data = write_set(folder / "data", qwen2, problems=24, held_out=2)
    # Packs of one row keep a step long enough to be interrupted.
    return tiny_config(
        *(qwen2, data, folder / "one"),
        steps=STEPS,
        batch=24,
        pack=400,
        save_every=2,
        log_every=1,
    )


@pytest.fixture(scope="module")
def alone(config: SftConfig) -> dict[str, torch.Tensor]:
    """What one process comes to."""
    train(config)
    return weights(config)


def elsewhere(config: SftConfig, name: str, **settings: object) -> SftConfig:
    values = config.as_dict() | {"out": str(config.out.with_name(name))} | settings
    return SftConfig.from_dict(values)


@pytest.mark.parametrize("shard", [0, 1])
def test_two_ranks_are_as_one(
    config: SftConfig, alone: dict[str, torch.Tensor], shard: int
) -> None:
    """Sharded over both, or a copy each (HSDP)."""
    ranks = Ranks(elsewhere(config, f"two-{shard}", shard=shard))
    assert ranks.wait() == 0
    assert ranks.said.count("report.md") == 1  # only the first rank speaks
    assert_same_steps(ranks.config, config)
    assert_near(weights(ranks.config), alone)


def test_adapters_are_trained_and_measured_by_two_ranks_as_by_one(
    config: SftConfig, tmp_path: Path
) -> None:
    """LoRA, and selfRef@k by the first rank while a checkpoint is being written."""
    pytest.importorskip("peft")
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "1 + 1", "answer": "2"}\n')
    often: dict[str, object] = {"lora": 4, "eval_every": 2, "selfref": str(problems)}
    often |= {"selfref_k": 2, "selfref_tokens": 8}
    mine = elsewhere(config, "adapters", **often)
    train(mine)
    ranks = Ranks(elsewhere(config, "adapters-two", **often))
    assert ranks.wait() == 0
    assert_same_steps(ranks.config, mine)
    measured = [entry for entry in read_log(ranks.config.out / "log.jsonl") if "selfref" in entry]
    assert len(measured) == STEPS // 2


def test_sigterm_at_one_rank_stops_both_and_one_process_goes_on(
    config: SftConfig, alone: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "train")
    mine = elsewhere(config, "stopped")
    ranks = Ranks(mine)
    log = mine.out / "log.jsonl"
    ranks.signal_last_rank(signal.SIGTERM, lambda: log.exists() and log.stat().st_size > 0)
    assert ranks.wait() != 0
    assert "interrupted; step" in ranks.said
    train(mine)
    assert any("goes on from step" in line for line in caplog.messages)
    assert_near(weights(mine), alone)


def test_kill_9_of_one_rank_leaves_a_checkpoint_that_is_gone_on_from_to_the_last_bit(
    config: SftConfig,
) -> None:
    whole = elsewhere(config, "two-0")
    if not (whole.out / "model").exists():
        assert Ranks(whole).wait() == 0
    mine = elsewhere(config, "killed")
    ranks = Ranks(mine)
    checkpoints = mine.out / "checkpoints"
    whole_one = lambda: any(p.suffix == "" for p in checkpoints.glob("step-*"))  # noqa: E731
    ranks.signal_last_rank(signal.SIGKILL, whole_one)
    assert ranks.wait() != 0
    assert not (mine.out / "model").exists()
    again = Ranks(mine)
    assert again.wait() == 0
    assert "goes on from step" in again.said
    one, other = weights(whole), weights(mine)
    assert all(torch.equal(one[name], other[name]) for name in one)
