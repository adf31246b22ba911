"""The training loop: rows of a step, packed; one backward each; one optimizer step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from gsr_engine.errors import GsrError
from train.command import log
from train.dataset import RowSet
from train.objectives import OBJECTIVES, objective_index
from train.trainer.batches import Plan, StepBatches, check_rows, packs_of_rank
from train.trainer.checkpoints import Checkpoints
from train.trainer.config import SftConfig
from train.trainer.flops import Flops
from train.trainer.log import Interval, Progress, RunLog
from train.trainer.lora import seed_dropout
from train.trainer.model import Trainee
from train.trainer.optimizer import clip_gradients, learning_rate, make_optimizer
from train.trainer.world import StopSignal, World

Evaluation = Callable[[int], dict[str, Any]]
"""Measures the weights of a step. All ranks call it; it returns fields for a line of the log."""


class TrainingDiverged(GsrError):
    """Gradients were not finite for too many steps in a row."""


class Trainer:
    """Trains a model on the rows of a set, with checkpoints under `config.out`.

    Args:
        trainee: the sharded model, with weights.
        rows: the rows to learn from.
        config: settings of the run.
        world: the processes of the run.
        run_log: where the lines of the run go.
        evaluations: run every `config.eval_every` steps and at the end.

    Raises:
        InvalidRequest: a row is longer than a pack, or of an unknown objective.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: RowSet,
        config: SftConfig,
        world: World,
        run_log: RunLog,
        evaluations: Sequence[Evaluation] = (),
    ) -> None:
        check_rows(rows, config.pack)
        self._trainee = trainee
        self._rows = rows
        self._config = config
        self._world = world
        self._evaluations = evaluations
        self._plan = Plan(rows.objectives, config.batch, config.seed)
        self._weights = torch.tensor([one.weight for one in OBJECTIVES], device=world.device)
        self._flops = Flops.of(trainee.hf.config)
        self._optimizer = make_optimizer(trainee, config)
        self._checkpoints = Checkpoints(config.out, trainee, self._optimizer, world, config.keep)
        self.steps = config.steps or max(1, round(config.epochs * self._plan.steps_per_epoch))
        self.step = 0
        self._progress = Progress(run_log, rows, config, world, self.steps)

    def run(self) -> bool:
        """Train from the last checkpoint to the end; False if a signal stopped it before.

        Raises:
            TrainingDiverged: gradients stay infinite or not a number. The last checkpoint is from
                before.
        """
        self.step = self._checkpoints.load_latest()
        if self.step:
            log.info("sft: goes on from step %d", self.step)
        self._progress.begin()
        with StopSignal() as signal:
            stopped = self._loop(signal)
            self._checkpoints.save(self.step)
            self._checkpoints.finish()
        if stopped:
            log.info("sft: interrupted; step %d is saved under %s", self.step, self._config.out)
            return False
        self._evaluate()
        return True

    def _loop(self, signal: StopSignal) -> bool:
        """Steps up to the last one; whether a signal stopped it before."""
        config, interval, in_a_row = self._config, Interval(), 0
        while self.step < self.steps:
            batches = self._batches(self.step)
            losses, stopped = self._backward(batches, signal.received)
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
                self._progress.trained(self.step, interval)
                interval = Interval()
            if stopped:
                return True
            if not last:
                # Checkpoints and evaluations do not count as time of training.
                interval.began += self._save_and_evaluate()
        return False

    def _save_and_evaluate(self) -> float:
        """Save and evaluate if either is due after this step; the seconds that it took."""
        began, config = time.perf_counter(), self._config
        if config.save_every and self.step % config.save_every == 0:
            self._checkpoints.save(self.step)
        if config.eval_every and self.step % config.eval_every == 0:
            self._evaluate()
        return time.perf_counter() - began

    @torch.no_grad()
    def _evaluate(self) -> None:
        for evaluate in self._evaluations:
            self._progress.evaluated(self.step, evaluate(self.step))

    def _batches(self, step: int) -> StepBatches:
        """The packs of this rank for a step."""
        chosen = self._plan.rows(step)
        rows = [self._rows[index] for index in chosen]
        objectives = torch.tensor([objective_index(row.objective) for row in rows])
        targets = torch.tensor([float(row.num_targets) for row in rows])
        counts = torch.zeros(len(OBJECTIVES)).index_add(0, objectives, targets)
        batches, computed = packs_of_rank(rows, self._config.pack, self._world)
        return StepBatches(
            batches=batches,
            counts=counts.to(self._world.device),
            rows=chosen,
            tokens=sum(map(len, rows)),
            computed=computed,
            flops=self._flops.of_rows(rows),
        )

    def _backward(self, step: StepBatches, stop: int) -> tuple[torch.Tensor, bool]:
        """Gradients of a step; mean loss of each objective, and whether any rank has to stop."""
        factors = self._factors(step.counts)
        sums = torch.zeros(len(OBJECTIVES), device=self._world.device)
        seed_dropout(self._config, self.step, self._world.rank)
        for index, batch in enumerate(step.batches):
            self._reduce_after(index == len(step.batches) - 1)
            losses = self._trainee(batch)
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
