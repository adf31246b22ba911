"""What a run writes down: log.jsonl always, a progress line, and trackers where they are asked for.

Lines of log.jsonl, one JSON object each; after a resume the last line of a step counts:

    training   step, seconds, loss (the sum of the next two), loss_direct, loss_refine, lr,
               grad_norm, tokens, tokens_per_second, padding (share), tflops, mfu, mfu_full (of the
               peak, counting the visible pairs or all; null where the peak is unknown),
               memory_gib (the most so far: of the GPU, or of the process on a CPU),
               rows (by layout), num_correct (refinement rows by right candidates), skipped
    held out   step, held_out_direct, held_out_refine
    selfRef@k  step, selfref {pass@1, maj@k, linear, branched, problems}
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from gsr_engine.errors import InvalidRequest
from train.files import open_appended
from train.trainer.batches import StepBatches
from train.trainer.config import SftConfig

Scalars = dict[str, float]


class _Sink(Protocol):
    def write(self, step: int, scalars: Scalars) -> None: ...
    def close(self) -> None: ...


class RunLog:
    """The log of a run; only the first rank has one that writes.

    Raises:
        InvalidRequest: a tracker is not installed.
    """

    def __init__(self, config: SftConfig, *, writes: bool) -> None:
        for tracker in config.trackers:
            if find_spec(tracker) is None:
                raise InvalidRequest("trackers", f"needs {tracker}: pip install {tracker}")
        self._file = open_appended(config.out / "log.jsonl") if writes else None
        self._sinks = [_SINKS[tracker](config) for tracker in config.trackers if writes]

    def write(self, entry: dict[str, Any]) -> None:
        """One line; numbers in it go to the trackers too, nested ones as "outer/inner"."""
        if self._file is None:
            return
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        for sink in self._sinks:
            sink.write(entry["step"], dict(_scalars(entry)))

    def close(self) -> None:
        """Flush and close everything."""
        if self._file is not None:
            self._file.close()
        for sink in self._sinks:
            sink.close()


def _scalars(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif value is not None and name != "step":
            yield prefix + name, float(value)


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

        name = config.out / "wandb_id"  # a run that goes on is the same one
        if not name.exists():
            name.write_text(wandb.util.generate_id(), encoding="utf-8")
        self._run = wandb.init(
            project="gsr-engine",
            dir=str(config.out),
            config=config.as_dict(),
            id=name.read_text(encoding="utf-8"),
            resume="allow",
        )

    def write(self, step: int, scalars: Scalars) -> None:
        self._run.log(scalars, step=step)

    def close(self) -> None:
        self._run.finish()


_SINKS: dict[str, type[_Sink]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}


@dataclass(slots=True)
class Interval:
    """What happened since the last log line."""

    began: float = field(default_factory=time.perf_counter)
    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tokens: int = 0
    computed: int = 0
    flops: tuple[float, float] = (0.0, 0.0)
    skipped: int = 0

    def add(self, step: StepBatches, losses: torch.Tensor, norm: float, skipped: bool) -> None:
        """Count one step."""
        self.losses.append(losses)
        self.norms.append(norm)
        self.rows += step.rows
        self.tokens += step.tokens
        self.computed += step.computed
        self.flops = (self.flops[0] + step.flops[0], self.flops[1] + step.flops[1])
        self.skipped += skipped
