"""What an engine is put together from: model on its device, tokenizer, what gsr.json says."""

from __future__ import annotations

from pathlib import Path

import torch

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.config import EngineConfig
from gsr_engine.execution.device import check_weights_fit, choose_device
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.linear import compute_dtype
from gsr_engine.model.rope import factors_in_use
from gsr_engine.model.weights import decoder_of, weight_bytes
from gsr_engine.requests.advice import advise


def load_parts(
    path_or_id: str | Path,
    config: EngineConfig,
    revision: str | None = None,
    template: str | Path | None = None,
) -> tuple[Decoder, Tokenizer, GsrConfig]:
    """The decoder, tokenizer and `gsr.json` of a local folder or of the Hugging Face hub.

    Raises:
        CheckpointError, InvalidRequest, OutOfMemory: as in `Engine.from_pretrained`.
    """
    folder = find_checkpoint(path_or_id, revision)
    model = ModelConfig.from_folder(folder)
    config.model_length(model)
    gsr = GsrConfig.from_folder(folder)
    if template is not None:
        gsr = gsr.with_prompts_of(template)
    tokenizer = Tokenizer.from_folder(folder, gsr.thinking)
    device = choose_device(config.device)
    with open_tensors(folder, model) as stored:
        dtype = _dtype(config.dtype, stored.config.dtype, device)
        notes = [*model.notes, *stored.notes]
        if factors := factors_in_use(model.rope, config.model_length(model)):
            notes.append(factors)
        if dtype == torch.bfloat16 and config.dtype == "auto" and stored.config.dtype == "float16":
            notes.append("a float16 checkpoint runs in bfloat16; dtype='float32' keeps its digits")
        for note in notes:
            advise(note)
        if device.type == "cuda":
            check_weights_fit(weight_bytes(stored.config, dtype), config)
        return decoder_of(stored, dtype, device), tokenizer, gsr


def _dtype(asked: str, stored: str | None, device: torch.device) -> torch.dtype:
    """The dtype to run in; "auto" takes the stored one where the device multiplies it."""
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    own = torch.float32 if stored == "float32" else torch.bfloat16
    return own if device.type == "cuda" else compute_dtype(own)
