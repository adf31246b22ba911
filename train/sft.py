"""Hybrid SFT: L = L_direct + L_selfR, each the mean over its own target tokens of a step.

    python -m train.sft --model FOLDER --data hybrid.jsonl --out FOLDER

The data are JSON lines with `problem`, `solution` and `candidates` (texts or token ids). Every step
is a pure function of (seed, step), so a run that was interrupted goes on where its last checkpoint
stands, and ends with the weights that it would have had.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

from gsr_engine.errors import GsrError, InvalidRequest
from gsr_engine.gsr_config import GsrConfig
from gsr_engine.prompts import Prompts
from gsr_engine.tokenizer import Tokenizer
from train.batches import OBJECTIVES, micro_batches
from train.checkpoint import export_model, load_state, save_state
from train.data import Mixture, Rows, load_records
from train.model import load_model, objective_losses
from train.rows import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Settings of a run.

    Attributes:
        steps: optimizer steps.
        lr: peak learning rate; warms up linearly, then falls along a cosine to lr * final_lr.
        decay: weight decay of matrices (vectors have none).
        clip: largest gradient norm.
        dtype: of the forward's products, "float32" or "bfloat16"; parameters stay fp32. On a CPU
            without bf16 instructions (AVX512-BF16, AMX) "bfloat16" is some 16 times slower.
        micro_tokens: padded tokens of one forward.
        log_every, save_every: steps between log lines, and between checkpoints; with each
            checkpoint the losses on the held-out rows are logged.
    """

    steps: int
    lr: float
    warmup: int = 100
    final_lr: float = 0.1
    decay: float = 0.05
    clip: float = 1.0
    dtype: str = "float32"
    micro_tokens: int = 4096
    log_every: int = 50
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if self.dtype not in ("float32", "bfloat16"):
            raise InvalidRequest("dtype", f"must be float32 or bfloat16, got {self.dtype!r}")
        if not 0 < self.lr < math.inf:
            raise InvalidRequest("lr", f"must be above 0, got {self.lr}")


def learning_rate(config: SftConfig, step: int) -> float:
    """The rate of a step, a pure function of it."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


def step_losses(
    model: PreTrainedModel, rows: Sequence[Row], config: SftConfig, *, backward: bool
) -> torch.Tensor:
    """Mean loss per objective over the rows, fp32 [objectives]; gradients of their sum if asked.

    Each objective is divided by its own number of targets in the whole step before the backward,
    so micro-batches of any size give the same gradients.
    """
    counts = torch.zeros(len(OBJECTIVES))
    for row in rows:
        counts[OBJECTIVES.index(row.objective)] += row.num_targets
    totals = torch.zeros(len(OBJECTIVES))
    for batch in micro_batches(rows, config.micro_tokens):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.dtype == "bfloat16"):
            losses = objective_losses(model, batch) / counts.clamp_min(1)
        if backward:
            losses.sum().backward()
        totals += losses.detach()
    return totals


class Trainer:
    """Trains a model on the rows of each step, with checkpoints under `out`.

    `held_out` rows are never learnt from; the losses on them are logged.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Rows,
        config: SftConfig,
        out: Path,
        name: str = "sft",
        held_out: Sequence[Row] = (),
    ) -> None:
        self.model = model
        self._rows = rows
        self._config = config
        self._out = out
        self._name = name
        self._held_out = held_out
        # What a state must have been written with to be gone on from.
        self._settings = asdict(config) | {"rows": rows.fingerprint}
        self._step = 0
        matrices = [p for p in model.parameters() if p.dim() > 1]
        vectors = [p for p in model.parameters() if p.dim() <= 1]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=(0.9, 0.98),
            fused=True,
        )

    def run(self, say: Callable[[str], None] = print) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        self._step = load_state(self._out, self.model, self._optimizer, self._settings)
        self._out.mkdir(parents=True, exist_ok=True)
        if self._step:
            say(f"{self._name}: goes on from step {self._step}")
        self.model.train()
        start, first, tokens = time.perf_counter(), self._step, 0
        recent: list[torch.Tensor] = []
        try:
            while self._step < self._config.steps:
                rows = self._rows.step(self._step)
                recent.append(self._train_step(rows))
                tokens += sum(map(len, rows))
                self._step += 1
                if self._step % self._config.log_every == 0 or self._step == self._config.steps:
                    elapsed = time.perf_counter() - start
                    self._log(say, recent, tokens / elapsed, elapsed / (self._step - first))
                    recent.clear()
                if self._step % self._config.save_every == 0 and self._step < self._config.steps:
                    self._save()
                    self._evaluate(say)
        except KeyboardInterrupt:
            say(f"{self._name}: interrupted, step {self._step} is saved under {self._out}")
            raise
        finally:
            self._save()
        self._evaluate(say)
        self.model.eval()

    def _train_step(self, rows: Sequence[Row]) -> torch.Tensor:
        rate = learning_rate(self._config, self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        losses = step_losses(self.model, rows, self._config, backward=True)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.clip)
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return losses

    def _log(
        self, say: Callable[[str], None], recent: list[torch.Tensor], rate: float, each: float
    ) -> None:
        means = torch.stack(recent).mean(dim=0)
        facts = {
            "lr": learning_rate(self._config, self._step - 1),
            "tokens_per_second": round(rate),
        }
        self._write("loss", means, facts)
        left = each * (self._config.steps - self._step)
        say(f"{self._progress(means)}  {rate:,.0f} tok/s  {left:.0f} s left")

    def _evaluate(self, say: Callable[[str], None]) -> None:
        if self._held_out:
            with torch.no_grad():
                losses = step_losses(self.model, self._held_out, self._config, backward=False)
            self._write("held_out", losses, {})
            say(f"{self._progress(losses)}  on {len(self._held_out)} held-out rows")

    def _progress(self, losses: torch.Tensor) -> str:
        parts = zip(OBJECTIVES, losses.tolist(), strict=True)
        text = "  ".join(f"{name} {value:.4f}" for name, value in parts)
        return f"{self._name} {self._step:>5}/{self._config.steps}  {text}"

    def _write(self, kind: str, losses: torch.Tensor, facts: dict[str, float]) -> None:
        """One line of log.jsonl."""
        parts = zip(OBJECTIVES, losses.tolist(), strict=True)
        entry = {"step": self._step, **{f"{kind}_{n}": round(v, 5) for n, v in parts}, **facts}
        with (self._out / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _save(self) -> None:
        save_state(self._out, self.model, self._optimizer, self._step, self._settings)


def main(
    model: Annotated[Path, typer.Option(help="Checkpoint folder to start from.")],
    data: Annotated[Path, typer.Option(help="JSONL: problem, solution, candidates.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, and of the trained checkpoint.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 1000,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-5,
    direct: Annotated[int, typer.Option(min=0, help="Direct rows per step.")] = 8,
    refine: Annotated[int, typer.Option(min=0, help="Refinement rows per step.")] = 8,
    k: Annotated[str, typer.Option(help="Candidates per refinement, least-most.")] = "4-6",
    layouts: Annotated[str, typer.Option(help="Taken in turn.")] = "linear,branched",
    held_out: Annotated[int, typer.Option(min=0, help="Records to evaluate on.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16 products.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the order of rows and candidates.")] = 0,
) -> None:
    """Train on direct solutions and refinements; goes on where an interrupted run was."""
    tokenizer, gsr = Tokenizer.from_folder(model), GsrConfig.from_folder(model)
    prompts = Prompts(tokenizer, gsr)
    mixture = Mixture.uniform(direct, refine, k, tuple(layouts.split(",")))
    config = SftConfig(steps=steps, lr=lr, dtype=dtype, seed=seed)
    records = load_records(data, tokenizer, prompts)
    learnt, kept = records[held_out:], records[:held_out]
    evaluation = Rows(prompts, kept, mixture.once_each(len(kept)), seed).step(0) if kept else ()
    rows = Rows(prompts, learnt, mixture, seed)
    trainer = Trainer(load_model(model), rows, config, out, held_out=evaluation)
    trainer.run(partial(print, flush=True))
    export_model(trainer.model, out, model)
    replace(gsr, layouts=mixture.layouts, num_candidates=mixture.num_candidates).save(out)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (GsrError, OSError) as error:
        raise SystemExit(f"sft: {error}") from None
