"""TRL's `SFTTrainer` on a CPU, in an environment of its own.

The loss is TRL's own, which never makes all logits. Attention is `sdpa`. It neither saves nor
evaluates.
"""

from __future__ import annotations

import tempfile
import time
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.peers.job import answer_lines
from benchmarks.peers.training_job import TrainingJob, TrainingResult


class _Notes(TrainerCallback):  # type: ignore[misc]  # untyped
    """The time and the loss of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.perf_counter())

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])


def rows_of(job: TrainingJob) -> Dataset:
    """The rows as TRL takes them; a token that is not a target has the label -100."""
    labels = [
        [-100] * start + ids[start:]
        for ids, start in zip(job.token_ids, job.target_starts, strict=True)
    ]
    return Dataset.from_dict({"input_ids": job.token_ids, "labels": labels})


def settings(job: TrainingJob, folder: str) -> SFTConfig:
    """The same optimizer and steps as the job's, and nothing but training."""
    return SFTConfig(
        output_dir=folder,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        use_cpu=True,
        bf16=False,
        max_length=None,
        padding_free=job.padding_free,
        per_device_train_batch_size=job.micro_batch,
        gradient_accumulation_steps=job.batch // job.micro_batch,
        train_sampling_strategy="sequential",
        max_steps=job.steps,
        gradient_checkpointing=job.checkpointing,
        optim="adamw_torch_fused",
        learning_rate=job.lr,
        lr_scheduler_type="constant",
        adam_beta2=job.beta2,
        weight_decay=job.decay,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def run(job: TrainingJob) -> TrainingResult:
    """Do a job in this process."""
    torch.set_num_threads(job.threads)
    notes = _Notes()
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            job.model, settings(job, folder), train_dataset=rows_of(job), callbacks=[notes]
        )
        trainer.train()
    lengths = list(map(len, job.token_ids))
    return TrainingResult(
        losses=notes.losses,
        seconds=[end - begin for begin, end in zip(notes.times, notes.times[1:], strict=False)],
        tokens=[sum(lengths[at : at + job.batch]) for at in range(0, len(lengths), job.batch)],
        facts={"trl": version("trl"), "transformers": version("transformers")},
    )


if __name__ == "__main__":
    answer_lines(lambda order: run(TrainingJob(**order)))
