"""Training state on disk, and the finished model as a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from gsr_engine.errors import CheckpointError

STATE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def _state_tensors(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and the optimizer's moments, by name; moments begin at zero."""
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter.data
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            for moment in _MOMENTS:
                state[moment] = torch.zeros_like(parameter)
        for moment in (*_MOMENTS, "step"):
            yield f"{moment}.{name}", state[moment]


def save_state(
    folder: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    step: int,
    config: dict[str, Any],
) -> None:
    """Write one file under another name, then rename: a crash leaves the last whole one."""
    tensors = {name: tensor.contiguous() for name, tensor in _state_tensors(model, optimizer)}
    partial = folder / f"{STATE}.partial"
    save_file(tensors, partial, metadata={"step": str(step), "config": json.dumps(config)})
    partial.replace(folder / STATE)


def load_state(
    folder: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer, config: dict[str, Any]
) -> int:
    """Restore in place; returns the step reached, 0 where there is no state.

    Raises:
        CheckpointError: the state belongs to a run with other settings.
    """
    if not (folder / STATE).exists():
        return 0
    with safe_open(folder / STATE, framework="pt") as file:
        metadata = file.metadata()
        if json.loads(metadata["config"]) != config:
            raise CheckpointError(
                f"{folder / STATE} was written with other settings: {metadata['config']}; "
                "remove it or choose another folder"
            )
        for name, tensor in _state_tensors(model, optimizer):
            tensor.copy_(file.get_tensor(name))
    return int(metadata["step"])


def export_model(
    model: PreTrainedModel, folder: Path, source: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write safetensors in `dtype`; config, tokenizer and gsr.json are copied from the source."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "model.safetensors.index.json":
            shutil.copy(file, folder / file.name)
    tied = model.config.tie_word_embeddings
    tensors = {
        name: tensor.detach().to(dtype).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
