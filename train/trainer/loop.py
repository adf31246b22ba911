"""The training loop: rows of a step, packed; one backward each; one optimizer step."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from gsr_engine.errors import GsrError
from train.dataset import RowSet
from train.objectives import OBJECTIVES, Objective, objective_index
from train.rows import Row
from train.trainer.batches import PackedBatch, Plan, StepBatches, check_lengths, collate, pack
from train.trainer.checkpoints import Checkpoints
from train.trainer.config import SftConfig
from train.trainer.flops import Flops, peak_flops
from train.trainer.log import Interval, RunLog
from train.trainer.model import Trainee
from train.trainer.optimizer import clip_gradients, learning_rate, make_optimizer
from train.trainer.world import StopSignal, World

Say = Callable[[str], None]


class TrainingDiverged(GsrError):
    """Gradients were not finite for too many steps in a row."""


class Trainer:
    """Trains a model on the rows of a set, with checkpoints and a log under `config.out`.

    Raises:
        InvalidRequest: a row is longer than a pack, or of an unknown objective.

    Args:
        evaluate: called with the step at every evaluation, on all ranks, e.g. for selfRef@k; what
            it returns is logged.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: RowSet,
        held_out: RowSet | None,
        config: SftConfig,
        world: World,
        log: RunLog,
        evaluate: Callable[[int], dict[str, Any]] | None = None,
        say: Say = print,
    ) -> None:
        for each in (rows, held_out):
            if each is not None:
                check_lengths(each.lengths, config.pack)
                for name in set(each.objectives):
                    objective_index(name)
        self.trainee = trainee
        self._rows = rows
        self._held_out = held_out
        self._config = config
        self._world = world
        self._log = log
        self._measure = evaluate
        self._say: Say = say if world.rank == 0 else lambda _: None
        self._plan = Plan(rows.objectives, config.batch, config.seed)
        self._weights = torch.tensor([one.weight for one in OBJECTIVES], device=world.device)
        self._flops = Flops.of(trainee.hf.config)
        self._optimizer = make_optimizer(trainee, config)
        self._checkpoints = Checkpoints(config.out, trainee, self._optimizer, world, config.keep)
        self.steps = config.steps or max(1, round(config.epochs * self._plan.steps_per_epoch))
        self.step = 0

    def run(self) -> bool:
        """Train from the last checkpoint to the end; False where a signal came before it.

        Raises:
            TrainingDiverged: gradients stay infinite or not a number; the last checkpoint is from
                before.
        """
        self.step = self._checkpoints.load_latest()
        if self.step:
            self._say(f"sft: goes on from step {self.step}")
        self._began = time.perf_counter()
        with StopSignal() as signal:
            stopped = self._loop(signal)
            self._checkpoints.save(self.step)
            self._checkpoints.finish()
        if stopped:
            self._say(f"sft: interrupted; step {self.step} is saved under {self._config.out}")
            return False
        self._evaluate()
        return True

    def _loop(self, signal: StopSignal) -> bool:
        config, interval, in_a_row = self._config, Interval(), 0
        while self.step < self.steps:
            batches = self._batches(self.step)
            losses, stopped = self._losses(batches, signal.received)
            norm, applied = self._update()
            in_a_row = 0 if applied else in_a_row + 1
            interval.add(batches, losses, norm, skipped=not applied)
            if in_a_row >= config.max_skipped:
                raise TrainingDiverged(
                    f"gradients were not finite at {in_a_row} steps in a row up to {self.step}"
                )
            self.step += 1
            self._checkpoints.publish()
            last = self.step == self.steps
            if last or stopped or (config.log_every and self.step % config.log_every == 0):
                self._report(interval)
                interval = Interval()
            if stopped:
                return True
            if not last:
                interval.began += self._save_and_evaluate()
        return False

    def _save_and_evaluate(self) -> float:
        """What is due after a step; the seconds that it took, which are none of training."""
        began, config = time.perf_counter(), self._config
        if config.save_every and self.step % config.save_every == 0:
            self._checkpoints.save(self.step)
        if config.eval_every and self.step % config.eval_every == 0:
            self._evaluate()
        return time.perf_counter() - began

    def _batches(self, step: int) -> StepBatches:
        """The rows of a step."""
        chosen = self._plan.rows(step)
        rows = [self._rows[index] for index in chosen]
        objectives = [objective_index(row.objective) for row in rows]
        targets = torch.tensor([float(row.num_targets) for row in rows])
        counts = torch.zeros(len(OBJECTIVES)).index_add(0, torch.tensor(objectives), targets)
        batches, computed = self._packed(rows)
        return StepBatches(
            batches=batches,
            counts=counts.to(self._world.device),
            rows=chosen,
            tokens=sum(map(len, rows)),
            computed=computed,
            flops=self._flops.of_rows(rows),
        )

    def _packed(self, rows: Sequence[Row]) -> tuple[list[PackedBatch], int]:
        """Packs of this rank for some rows, and the tokens that all ranks' packs compute."""
        config, world = self._config, self._world
        packs = pack([len(row) for row in rows], config.pack, world.size)
        # Compiled kernels want one shape.
        pad_to = 0 if world.device.type == "cpu" else config.pack
        mine = packs[world.rank :: world.size]
        batches = [collate([rows[at] for at in places], world.device, pad_to) for places in mine]
        computed = len(packs) * pad_to or sum(max(1, len(row)) for row in rows)
        return batches, computed

    def _losses(self, step: StepBatches, stop: int) -> tuple[torch.Tensor, bool]:
        """Mean loss of each objective, with its gradients; and whether any rank is to stop."""
        factors = self._factors(step.counts)
        sums = torch.zeros(len(OBJECTIVES), device=self._world.device)
        for index, batch in enumerate(step.batches):
            self._last_backward(index == len(step.batches) - 1)
            losses = self.trainee(batch)
            (losses * factors).sum().backward()
            sums += losses.detach()
        flag = torch.tensor([float(bool(stop))], device=self._world.device)
        # One exchange for everything that the ranks must agree on.
        total = self._world.sum(torch.cat([sums, flag]))
        return total[:-1] / step.counts.clamp_min(1), bool(total[-1])

    def _factors(self, counts: torch.Tensor) -> torch.Tensor:
        """What each objective's summed loss is multiplied by before the backward."""
        norm = self._config.objective_norm
        divisors = counts.clamp_min(1) if norm == "each" else counts.sum()
        return self._weights / divisors

    def _last_backward(self, last: bool) -> None:
        """With several copies (HSDP) their gradients are added once, after the last pack."""
        for module in self.trainee.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_all_reduce(last, recurse=False)

    def _update(self) -> tuple[float, bool]:
        """One optimizer step, unless the gradients are not finite; their norm."""
        rate = learning_rate(self._config, self.step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = clip_gradients(self.trainee, self._config.clip)
        finite = norm < float("inf")  # false for NaN, too
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm, finite

    def _report(self, interval: Interval) -> None:
        means = torch.stack(interval.losses).mean(dim=0).tolist()
        seconds = time.perf_counter() - interval.began
        cuda = self._world.device.type == "cuda"
        rows = self._rows
        kinds = Counter(rows.kinds[index] for index in interval.rows)
        right = Counter(int(rows.num_correct[at]) for at in interval.rows if rows.layouts[at])
        peak = peak_flops(self._world.device)
        rates = [flops / seconds / self._world.size for flops in interval.flops]
        entry = {
            "step": self.step,
            "seconds": round(time.perf_counter() - self._began, 2),
            "loss": round(sum(one.weight * v for one, v in _by_objective(means)), 5),
            **{f"loss_{one.name}": round(v, 5) for one, v in _by_objective(means)},
            "lr": learning_rate(self._config, self.step - 1, self.steps),
            "grad_norm": round(sum(interval.norms) / len(interval.norms), 5),
            "tokens": interval.tokens,
            "tokens_per_second": round(interval.tokens / seconds, 1),
            "padding": round(1 - interval.tokens / interval.computed, 4),
            "tflops": round(rates[0] / 1e12, 3),
            "mfu": peak and round(rates[0] / peak, 4),
            "mfu_full": peak and round(rates[1] / peak, 4),
            "memory_gib": round(_peak_bytes(cuda) / 2**30, 2),
            "rows": dict(kinds),
            "num_correct": {str(n): count for n, count in sorted(right.items())},
            "skipped": interval.skipped,
        }
        self._log.write(entry)
        left = seconds / len(interval.losses) * (self.steps - self.step)
        share = f"  MFU {entry['mfu']:.1%}" if peak else ""
        rate = f"{entry['tokens_per_second']:,.0f} tok/s{share}"
        self._say(f"{self._progress(means)}  {rate}  {left:.0f} s left")

    def _progress(self, losses: Sequence[float]) -> str:
        text = "  ".join(f"{one.name} {value:.4f}" for one, value in _by_objective(losses))
        return f"{self._config.out.name} {self.step:>5}/{self.steps}  {text}"

    @torch.no_grad()
    def _evaluate(self) -> None:
        """Losses on the held-out rows, and what else is to be measured."""
        if self._held_out is not None:
            losses = self._held_out_losses(self._held_out)
            self._log.write({"step": self.step, **losses})
            self._say(f"{self._progress(list(losses.values()))}  held out")
        if self._measure is not None:
            measured = self._measure(self.step)
            self._log.write({"step": self.step, "selfref": measured})
            self._say(f"{self._config.out.name} {self.step:>5}/{self.steps}  {measured}")

    def _held_out_losses(self, held_out: RowSet) -> dict[str, float]:
        sums, counts = torch.zeros(2, len(OBJECTIVES), device=self._world.device)
        size = self._config.batch
        for begin in range(0, len(held_out), size):
            rows = [held_out[i] for i in range(begin, min(begin + size, len(held_out)))]
            for batch in self._packed(rows)[0]:
                sums += self.trainee(batch)
                counts += torch.bincount(batch.objectives, minlength=len(OBJECTIVES))
        totals = self._world.sum(torch.stack([sums, counts]))
        means = (totals[0] / totals[1].clamp_min(1)).tolist()
        return {f"held_out_{one.name}": round(v, 5) for one, v in _by_objective(means)}


def _by_objective(values: Sequence[float]) -> list[tuple[Objective, float]]:
    return list(zip(OBJECTIVES, values, strict=True))


def _peak_bytes(cuda: bool) -> int:
    """The most that this process held: of the GPU's memory, or of the host's where it trains."""
    if cuda:
        return torch.cuda.max_memory_allocated()
    peak = getrusage(RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
