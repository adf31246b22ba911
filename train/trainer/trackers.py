"""Trackers: services beside log.jsonl that the numbers of a run go to."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Protocol

from gsr_engine.errors import InvalidRequest
from train.trainer.config import SftConfig

Scalars = dict[str, float]


class Tracker(Protocol):
    """What a tracker must do."""

    def write(self, step: int, scalars: Scalars) -> None:
        """Add the numbers of a step."""

    def close(self) -> None:
        """Write everything that is left, and end."""


def check_trackers(config: SftConfig) -> None:
    """Raise InvalidRequest for a tracker that is not installed."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise InvalidRequest("trackers", f"needs {name}: pip install {name}")


def open_trackers(config: SftConfig) -> list[Tracker]:
    """The trackers that a run asks for."""
    return [_TRACKERS[name](config) for name in config.trackers]


class _TensorBoard:
    def __init__(self, config: SftConfig) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # optional

        self._writer = SummaryWriter(str(config.out / "tensorboard"))

    def write(self, step: int, scalars: Scalars) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, config: SftConfig) -> None:
        import wandb  # noqa: PLC0415  # optional

        file = config.out / "wandb_id"  # a run that is resumed keeps its id
        if not file.exists():
            file.write_text(wandb.util.generate_id(), encoding="utf-8")
        self._run: Any = wandb.init(
            project="gsr-engine",
            dir=str(config.out),
            config=config.as_dict(),
            id=file.read_text(encoding="utf-8"),
            resume="allow",
        )

    def write(self, step: int, scalars: Scalars) -> None:
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Callable[[SftConfig], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
