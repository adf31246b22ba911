"""What a run says: the lines of log.jsonl, the same numbers for trackers, and progress for people.

Lines of log.jsonl, one JSON object each; after a resume the last line of a step counts:

    training   step, seconds, loss (the weighted sum of the objectives' losses), loss_direct,
               loss_refine, lr, grad_norm, tokens, tokens_per_second, padding (share), tflops, mfu,
               mfu_full (of the peak, counting the visible pairs or all; null where the peak is
               unknown), memory_gib (the most so far: of the GPU, or of the process on a CPU),
               rows (by layout), num_correct (rows that show candidates, by right ones), skipped
               (steps without finite gradients, which losses and grad_norm leave out)
    held out   step, held_out_direct, held_out_refine
    selfRef@k  step, selfref {pass@1, maj@k, linear, branched, problems}

A loss that nothing was measured for is null, and so is what is infinite or not a number.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeVar

import torch

from gsr_engine.errors import CheckpointError
from gsr_engine.speed.peak_memory import peak_memory
from train.command import log
from train.dataset import RowSet
from train.files import open_appended
from train.objectives import OBJECTIVES, Objective
from train.trainer.batches import StepBatches
from train.trainer.config import SftConfig
from train.trainer.flops import peak_flops
from train.trainer.optimizer import learning_rate
from train.trainer.trackers import Tracker, check_trackers, open_trackers
from train.trainer.world import World

ValueT = TypeVar("ValueT")


class RunLog:
    """The log of a run, and its trackers; only the first rank's writes.

    Raises:
        InvalidRequest: a tracker is not installed.
    """

    def __init__(self, config: SftConfig, *, writes: bool) -> None:
        check_trackers(config)
        self._config = config
        self._writes = writes
        self._file: TextIO | None = None
        self._trackers: list[Tracker] = []

    def write(self, entry: dict[str, Any]) -> None:
        """Append a line; its numbers go to the trackers too, nested ones as "outer/inner".

        Raises:
            CheckpointError: it cannot be written.
        """
        if not self._writes:
            return
        path, valid = self._config.out / "log.jsonl", _finite(entry)
        try:
            if self._file is None:  # the first line: until then nothing is touched
                self._file = open_appended(path)
                self._trackers = open_trackers(self._config)
            self._file.write(json.dumps(valid, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:  # e.g. the disk is full
            self._file = None  # closing it would try again
            raise CheckpointError(f"{path} cannot be written: {error.strerror}") from None
        for tracker in self._trackers:
            tracker.write(entry["step"], dict(_scalars(valid)))

    def close(self) -> None:
        """Flush and close everything."""
        if self._file is not None:
            self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _finite(value: Any) -> Any:
    """The same, with None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in entry.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{name}/")
        elif value is not None and name != "step":
            yield prefix + name, float(value)


@dataclass(slots=True)
class Interval:
    """What happened since the last line of the log.

    Attributes:
        losses, norms: of the steps that were not skipped.
        steps, skipped: steps, and those of them that were skipped.
    """

    began: float = field(default_factory=time.perf_counter)
    losses: list[torch.Tensor] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    steps: int = 0
    rows: list[int] = field(default_factory=list)
    tokens: int = 0
    computed: int = 0
    flops: tuple[float, float] = (0.0, 0.0)
    skipped: int = 0

    def add(self, step: StepBatches, losses: torch.Tensor, norm: float, skipped: bool) -> None:
        """Count one step."""
        self.steps += 1
        if not skipped:
            self.losses.append(losses)
            self.norms.append(norm)
        self.rows += step.rows
        self.tokens += step.tokens
        self.computed += step.computed
        self.flops = (self.flops[0] + step.flops[0], self.flops[1] + step.flops[1])
        self.skipped += skipped

    def mean_losses(self) -> list[float | None]:
        """Of each objective, over the steps that had a target of it; None if none had."""
        if not self.losses:
            return [None] * len(OBJECTIVES)
        means = torch.stack(self.losses).nanmean(dim=0).tolist()
        return [None if math.isnan(mean) else mean for mean in means]


class Progress:
    """Turns intervals and evaluations into lines of the log and lines for people.

    Args:
        run_log: of the run.
        rows: the rows that are learnt from.
        config: settings of the run.
        world: the processes of the run.
        steps: the last step.
    """

    def __init__(
        self, run_log: RunLog, rows: RowSet, config: SftConfig, world: World, steps: int
    ) -> None:
        self._log = run_log
        self._rows = rows
        self._config = config
        self._world = world
        self._steps = steps
        self._began = 0.0

    def begin(self) -> None:
        """Start the clock of this process's part of the run."""
        self._began = time.perf_counter()

    def trained(self, step: int, interval: Interval) -> None:
        """Report the training up to `step`."""
        losses = interval.mean_losses()
        seconds = time.perf_counter() - interval.began
        known = [one.weight * loss for one, loss in by_objective(losses) if loss is not None]
        entry = {
            "step": step,
            "seconds": round(time.perf_counter() - self._began, 2),
            "loss": round(sum(known), 5) if known else None,
            **{f"loss_{one.name}": _rounded(loss) for one, loss in by_objective(losses)},
            "lr": learning_rate(self._config, step - 1, self._steps),
            "grad_norm": _rounded(statistics.fmean(interval.norms)) if interval.norms else None,
            **self._rates(interval, seconds),
            **self._counts(interval.rows),
            "skipped": interval.skipped,
        }
        self._log.write(entry)
        shown = "  ".join(f"{one.name} {_shown(loss)}" for one, loss in by_objective(losses))
        share = f"  MFU {entry['mfu']:.1%}" if entry["mfu"] else ""
        skipped = f"  {interval.skipped} skipped: no finite gradients" if interval.skipped else ""
        left = seconds / interval.steps * (self._steps - step)
        rate = f"{entry['tokens_per_second']:,.0f} tok/s{share}{skipped}"
        log.info("%s  %s  %s  %.0f s left", self._place(step), shown, rate, left)

    def evaluated(self, step: int, fields: dict[str, Any]) -> None:
        """Report what an evaluation measured; on other ranks than the first that may be nothing."""
        if fields:
            self._log.write({"step": step, **fields})
            known = {name: "-" if one is None else one for name, one in _finite(fields).items()}
            text = "  ".join(f"{name} {one}" for name, one in known.items())
            log.info("%s  %s", self._place(step), text)

    def _place(self, step: int) -> str:
        return f"{self._config.out.name} {step:>5}/{self._steps}"

    def _rates(self, interval: Interval, seconds: float) -> dict[str, Any]:
        peak = peak_flops(self._world.device)
        seen, full = (flops / seconds / self._world.size for flops in interval.flops)
        return {
            "tokens": interval.tokens,
            "tokens_per_second": round(interval.tokens / seconds, 1),
            "padding": round(1 - interval.tokens / interval.computed, 4),
            "tflops": round(seen / 1e12, 3),
            "mfu": peak and round(seen / peak, 4),
            "mfu_full": peak and round(full / peak, 4),
            "memory_gib": round(peak_memory(self._world.device) / 2**30, 2),
        }

    def _counts(self, indices: Sequence[int]) -> dict[str, Any]:
        rows = self._rows
        right = Counter(int(rows.num_correct[index]) for index in indices if rows.layouts[index])
        return {
            "rows": dict(Counter(rows.kinds[index] for index in indices)),
            "num_correct": {str(number): count for number, count in sorted(right.items())},
        }


def by_objective(values: Sequence[ValueT]) -> list[tuple[Objective, ValueT]]:
    """Each objective with its value."""
    return list(zip(OBJECTIVES, values, strict=True))


def _rounded(loss: float | None) -> float | None:
    """As the log has it."""
    return loss if loss is None else round(loss, 5)


def _shown(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"
