"""The settings of a training run: a dataclass, from a TOML file or flags, saved with the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from gsr_engine.errors import InvalidRequest, check_bool, check_float, check_int, shown
from gsr_engine.model.linear import has_bf16_products

ObjectiveNorm = Literal["each", "token"]
Checkpointing = Literal["none", "selective", "full"]
Dtype = Literal["float32", "bfloat16"]
Tracker = Literal["tensorboard", "wandb"]

_MOST = 2**63 - 1
"""Largest number of a setting: what numpy and torch count with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftConfig:
    """Settings of a run.

    Attributes:
        model: folder or hub id of the checkpoint to start from.
        data: folder that `train.build` wrote.
        out: folder of the run; the trained checkpoint is in `<out>/model`.
        epochs: how often every row is learnt from.
        steps: optimizer steps; 0 means as many as `epochs` take.
        batch: rows of a step, over all ranks; each holds every objective as the data do.
        pack: most tokens of one forward. Rows are packed up to it; a longer row is an error.
        lr: peak learning rate. It rises linearly, then falls along a cosine to lr * final_lr.
        final_lr: last learning rate, as a share of `lr`.
        warmup: steps until the peak; below 1 it is a share of all steps.
        decay: weight decay of matrices (vectors have none).
        beta2: decay of AdamW's second moment; the decay of the first is 0.9.
        clip: largest gradient norm.
        objective_norm: "each": each objective's loss is the mean over its own target tokens of the
            step, and these means are added. "token": one mean over all target tokens.
        dtype: of the forward's products, and of the trained checkpoint; parameters, gradients and
            moments are fp32. "auto" is bfloat16, but float32 on a CPU that does not multiply
            bfloat16: there it takes 10 to 20 times as long.
        checkpointing: which activations the backward recomputes: none, all but those of products
            and attention ("selective"), or all but each layer's input ("full").
        compile: compile each layer. This is for a GPU, and the first step takes minutes.
        shard: ranks that share one copy of the state; 0 means all. For HSDP: ranks of a node.
        lora: rank of LoRA adapters on every linear layer; 0 trains all parameters.
        lora_alpha: adapters are scaled by lora_alpha / lora; 0 takes twice the rank.
        lora_dropout: share of each adapter's inputs that is dropped in training.
        log_every: steps between lines of the log; 0: at the end only.
        eval_every: steps between losses on the held-out rows; 0: at the end only.
        save_every: steps between checkpoints; 0: by time and at the end only.
        save_minutes: minutes after which a checkpoint is written, too; 0: by steps only.
        keep: number of checkpoints to keep. If the newest is damaged, the run goes on from the one
            before.
        selfref: JSONL of problems with answers. At each evaluation the engine solves and refines
            them with the current weights.
        selfref_k: candidates per problem.
        selfref_tokens: longest candidate and refinement.
        max_skipped: the run stops after this many steps in a row without finite gradients.
        trackers: services that get the numbers of log.jsonl.
        seed: of the order of rows.
    """

    model: str
    data: Path
    out: Path
    epochs: float = 3.0
    steps: int = 0
    batch: int = 256
    pack: int = 16_384
    lr: float = 1e-5
    warmup: float = 0.03
    final_lr: float = 0.1
    decay: float = 0.05
    beta2: float = 0.98
    clip: float = 1.0
    objective_norm: ObjectiveNorm = "each"
    dtype: Dtype | Literal["auto"] = "auto"
    checkpointing: Checkpointing = "none"
    compile: bool = False
    shard: int = 0
    lora: int = 0
    lora_alpha: int = 0
    lora_dropout: float = 0.0
    log_every: int = 10
    eval_every: int = 200
    save_every: int = 200
    save_minutes: float = 15.0
    keep: int = 2
    selfref: Path | None = None
    selfref_k: int = 4
    selfref_tokens: int = 4096
    max_skipped: int = 5
    trackers: tuple[Tracker, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        for name in ("batch", "pack", "keep", "selfref_k", "selfref_tokens", "max_skipped"):
            check_int(name, getattr(self, name), 1, _MOST)
        for name in ("steps", "shard", "log_every", "eval_every", "save_every", "seed"):
            check_int(name, getattr(self, name), 0, _MOST)
        for name in ("lr", "clip", "epochs"):
            check_float(name, getattr(self, name), 0, _MOST)
            _require(getattr(self, name) > 0, name, "above 0", getattr(self, name))
        check_float("final_lr", self.final_lr, 0, 1)
        check_float("beta2", self.beta2, 0, 1)
        _require(0 < self.beta2 < 1, "beta2", "between 0 and 1", self.beta2)
        for name in ("warmup", "decay", "save_minutes"):
            check_float(name, getattr(self, name), 0, _MOST)
        check_bool("compile", self.compile)
        for name in ("model", "data", "out"):
            given = getattr(self, name)
            wrong = isinstance(given, int | float | list | dict)
            _require(not wrong, name, "a path or a name", given)
        choices = {
            "objective_norm": ObjectiveNorm,
            "dtype": Literal["auto", Dtype],
            "checkpointing": Checkpointing,
        }
        for name, kind in choices.items():
            options = get_args(kind)
            _require(
                getattr(self, name) in options, name, " or ".join(options), getattr(self, name)
            )
        _require(isinstance(self.trackers, tuple), "trackers", "a list", self.trackers)
        for tracker in self.trackers:
            options = get_args(Tracker)
            _require(tracker in options, "trackers", " or ".join(options), tracker)
        self._check_lora()

    def _check_lora(self) -> None:
        check_int("lora", self.lora, 0, _MOST)
        check_int("lora_alpha", self.lora_alpha, 0, _MOST)
        check_float("lora_dropout", self.lora_dropout, 0, 1)
        for name in ("lora_alpha", "lora_dropout"):
            value = getattr(self, name)
            _require(bool(self.lora or not value), name, "0 where lora is 0", value)
        _require(self.lora_dropout < 1, "lora_dropout", "below 1", self.lora_dropout)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> SftConfig:
        """From plain values, as TOML and JSON hold them.

        Raises:
            InvalidRequest: a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(raw.keys() - known):
            raise InvalidRequest(unknown[0], "is not a setting of a run")
        values = dict(raw)
        for name in ("data", "out", "selfref"):
            if isinstance(values.get(name), str):
                values[name] = Path(values[name])
        if isinstance(values.get("trackers"), list):
            values["trackers"] = tuple(values["trackers"])
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidRequest("config", str(error)) from None

    def on(self, device: torch.device) -> SftConfig:
        """The same with the dtype that "auto" means on a device."""
        chosen: Dtype = "bfloat16"
        if device.type == "cpu" and not has_bf16_products():
            chosen = "float32"
        return replace(self, dtype=chosen) if self.dtype == "auto" else self

    def as_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` reads them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def _require(holds: bool, field: str, limit: str, value: object) -> None:
    if not holds:
        raise InvalidRequest(field, f"must be {limit}, got {shown(value)}")


KV_CACHE_GIB = 2.0
"""GiB of KV for the engine that evaluates; the trainer holds the rest of the memory."""
