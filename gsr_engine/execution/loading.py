"""What an engine is put together from: model on its device, tokenizer, what gsr.json says."""

from __future__ import annotations

from pathlib import Path

import torch

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.config import EngineConfig
from gsr_engine.execution.device import check_weights_fit, choose_device
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.linear import compute_dtype
from gsr_engine.model.weights import load_decoder, weight_bytes


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
    tokenizer = Tokenizer.from_folder(folder)
    gsr = GsrConfig.from_folder(folder)
    if template is not None:
        gsr = gsr.with_prompts_of(template)
    device = choose_device(config.device)
    auto = config.dtype == "auto"
    dtype = getattr(torch, model.dtype if auto else config.dtype)
    if device.type == "cuda":
        check_weights_fit(weight_bytes(model, dtype), config)
    elif auto:
        dtype = compute_dtype(dtype)
    return load_decoder(folder, model, dtype, device), tokenizer, gsr
