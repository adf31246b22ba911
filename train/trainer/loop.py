"""The training loop: rows of a step, packed; one backward each; one optimizer step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from gsr_engine.errors import GsrError
from train.command import Interrupted, log
from train.dataset import RowSet
from train.objectives import OBJECTIVES, objective_index
from train.trainer.batches import Plan, StepBatches, packs_of_rank
from train.trainer.checkpoints import Checkpoints
from train.trainer.config import SftConfig
from train.trainer.flops import Flops
from train.trainer.log import Interval, Progress, RunLog
from train.trainer.lora import seed_dropout
from train.trainer.model import Trainee
from train.trainer.optimizer import clip_gradients, learning_rate, make_optimizer
from train.trainer.stop_signal import StopSignal
from train.trainer.world import World

Evaluation = Callable[[int], dict[str, Any]]
"""Measures the weights of a step. All ranks call it; it returns fields for a line of the log."""


class TrainingDiverged(GsrError):
    """Gradients were not finite for too many steps in a row."""


class Trainer:
    """Trains a model on the rows of a set, with checkpoints under `config.out`.

    Args:
        trainee: the sharded model, with weights.
        rows: the rows to learn from, none longer than a pack.
        config: settings of the run.
        world: the processes of the run.
        run_log: where the lines of the run go.
        evaluations: run every `config.eval_every` steps and at the end.
        claim: called on all ranks after each step that is taken, before anything of it is written.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: RowSet,
        config: SftConfig,
        world: World,
        run_log: RunLog,
        evaluations: Sequence[Evaluation] = (),
        claim: Callable[[], None] = lambda: None,
    ) -> None:
        self._trainee = trainee
        self._rows = rows
        self._config = config
        self._world = world
        self._evaluations = evaluations
        self._claim = claim
        self._plan = Plan(rows.objectives, config.batch, config.seed)
        self._weights = torch.tensor([one.weight for one in OBJECTIVES], device=world.device)
        self._flops = Flops.of(trainee.hf.config)
        self._optimizer = make_optimizer(trainee, config)
        self._checkpoints = Checkpoints(config.out, trainee, self._optimizer, world, config.keep)
        self.steps = config.steps or max(1, round(config.epochs * self._plan.steps_per_epoch))
        self.step = 0
        self._skipped = 0
        self._saved_at = 0.0
        self._progress = Progress(run_log, rows, config, world, self.steps)

    def run(self) -> None:
        """Train from the last checkpoint to the end.

        Raises:
            Interrupted: a signal stopped it before; a checkpoint holds the last step.
            TrainingDiverged: gradients stay infinite or not a number. The last checkpoint is from
                before.
            CheckpointError: a checkpoint cannot be written, or none can be read.
        """
        self.step, self._skipped = self._checkpoints.load_latest()
        if self.step:
            log.info("sft: goes on from step %d", self.step)
        self._progress.begin()
        self._saved_at = time.perf_counter()
        with StopSignal() as signal, ThreadPoolExecutor(1) as beside:
            received = self._loop(signal, beside)
            self._checkpoints.save(self.step, self._skipped)
            self._checkpoints.finish()
        if received:
            where = self._config.out
            raise Interrupted(received, f"interrupted; step {self.step} is saved under {where}")
        self._claim()
        self._evaluate()

    def _loop(self, signal: StopSignal, beside: Executor) -> int:
        """Steps up to the last one; the number of the signal that stopped it before, or 0."""
        config, interval = self._config, Interval()
        prepared = beside.submit(self._batches, self.step)
        while self.step < self.steps:
            batches = prepared.result()
            if self.step + 1 < self.steps:
                # The next step's rows are read and packed while the device computes this one.
                prepared = beside.submit(self._batches, self.step + 1)
            losses = self._backward(batches)
            norm, applied = self._update()
            self._claim()
            interval.add(batches, losses, norm, skipped=not applied)
            self._count_skipped(applied)
            self.step += 1
            self._checkpoints.publish()
            last = self.step == self.steps
            received, save = self._agreed(signal)
            if last or received or (config.log_every and self.step % config.log_every == 0):
                self._progress.trained(self.step, interval)
                interval = Interval()
            if received or last:
                return received
            self._save_and_evaluate(save, signal, interval)
            if self._evaluates and (received := self._agreed(signal)[0]):
                return received
        return 0

    def _count_skipped(self, applied: bool) -> None:
        self._skipped = 0 if applied else self._skipped + 1
        if self._skipped >= min(self._config.max_skipped, self.steps):
            raise TrainingDiverged(
                f"gradients were not finite at {self._skipped} steps in a row, up to step "
                f"{self.step + 1}"
            )

    def _agreed(self, signal: StopSignal) -> tuple[int, bool]:
        """The signal that any rank received, and whether a checkpoint is due by time."""
        minutes = (time.perf_counter() - self._saved_at) / 60
        due = 0 < self._config.save_minutes <= minutes
        received, save = self._world.largest([signal.received, due])
        return int(received), bool(save)

    @property
    def _evaluates(self) -> bool:
        return bool(self._config.eval_every) and self.step % self._config.eval_every == 0

    def _save_and_evaluate(self, save: bool, signal: StopSignal, interval: Interval) -> None:
        """Save and evaluate if either is due after this step; neither counts as training."""
        began, every = time.perf_counter(), self._config.save_every
        takes_long = self._evaluates and self._config.selfref is not None
        if save or takes_long or (every and self.step % every == 0):
            self._checkpoints.save(self.step, self._skipped)
            self._saved_at = time.perf_counter()
        if takes_long:
            self._checkpoints.finish()
        if self._evaluates:
            signal.at_once = takes_long
            self._evaluate()
            signal.at_once = False
        interval.began += time.perf_counter() - began

    @torch.no_grad()
    def _evaluate(self) -> None:
        for evaluate in self._evaluations:
            self._progress.evaluated(self.step, evaluate(self.step))

    def _batches(self, step: int) -> StepBatches:
        """The packs of this rank for a step, in the host's memory."""
        chosen = self._plan.rows(step)
        rows = [self._rows[index] for index in chosen]
        objectives = torch.tensor([objective_index(row.objective) for row in rows])
        targets = torch.tensor([float(row.num_targets) for row in rows])
        packs, computed = packs_of_rank(rows, self._config.pack, self._world)
        return StepBatches(
            packs=packs,
            counts=torch.zeros(len(OBJECTIVES)).index_add(0, objectives, targets),
            rows=chosen,
            tokens=sum(map(len, rows)),
            computed=computed,
            flops=self._flops.of_rows(rows),
        )

    def _backward(self, step: StepBatches) -> torch.Tensor:
        """Gradients of a step; the mean loss of each objective."""
        counts = step.counts.to(self._world.device)
        factors = self._factors(counts)
        sums = torch.zeros(len(OBJECTIVES), device=self._world.device)
        seed_dropout(self._config, self.step, self._world.rank)
        for index, pack in enumerate(step.packs):
            self._reduce_after(index == len(step.packs) - 1)
            losses = self._trainee(pack.to(self._world.device))
            (losses * factors).sum().backward()
            sums += losses.detach()
        return self._world.sum(sums) / counts

    def _factors(self, counts: torch.Tensor) -> torch.Tensor:
        """What each objective's summed loss is multiplied by before the backward."""
        norm = self._config.objective_norm
        divisors = counts.clamp_min(1) if norm == "each" else counts.sum()
        return self._weights / divisors

    def _reduce_after(self, last: bool) -> None:
        """Add the gradients of several copies (HSDP) once, after the last pack of a step."""
        for module in self._trainee.modules():
            if isinstance(module, FSDPModule):
                module.set_requires_all_reduce(last, recurse=False)

    def _update(self) -> tuple[float, bool]:
        """Take an optimizer step unless the gradients are not finite.

        Returns the norm of the gradients, and whether the step was taken.
        """
        rate = learning_rate(self._config, self.step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = clip_gradients(self._trainee, self._config.clip)
        finite = norm < float("inf")  # false for NaN, too
        if finite:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm, finite
