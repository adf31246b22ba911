"""What an engine is put together from: model on its device, tokenizer, what gsr.json says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gsr_engine.checkpoint.adapter import adapter_notes, open_adapted
from gsr_engine.checkpoint.files import find_adapter, find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import ModelTensors, open_tensors, refuse_adapter
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.config import EngineConfig
from gsr_engine.execution.arithmetic import arithmetic_notes, choose_arithmetic, plain_products
from gsr_engine.execution.gpu import check_capability, check_head_dim, choose_device, on_device
from gsr_engine.execution.memory_need import check_memory
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.rope import factors_in_use
from gsr_engine.model.weights import decoder_of
from gsr_engine.requests.advice import advise


def load_parts(
    path_or_id: str | Path,
    config: EngineConfig,
    template: str | Path | None = None,
    adapter: str | Path | None = None,
) -> tuple[Decoder, Tokenizer, GsrConfig]:
    """The decoder, tokenizer and `gsr.json` of a local folder or of the Hugging Face hub.

    Raises:
        CheckpointError, InvalidRequest, OutOfMemory: as in `Engine.from_pretrained`.
    """
    folder = find_checkpoint(path_or_id)
    refuse_adapter(folder)
    model = ModelConfig.from_folder(folder)
    config.model_length(model)
    over = None if adapter is None else find_adapter(adapter)
    notes = [*model.notes]
    gsr = _prompts(folder, over, notes)
    if template is not None:
        gsr = gsr.with_prompts_of(template)
    tokenizer = Tokenizer.from_folder(folder, gsr.thinking)
    device = choose_device(config.device)
    check_capability(device)
    check_head_dim(device, model.head_dim)
    with open_weights(folder, model, over) as stored, on_device(device):
        dtype, quantization = choose_arithmetic(config, stored, device)
        notes += stored.notes
        if factors := factors_in_use(model.rope, config.model_length(model)):
            notes.append(factors)
        notes += arithmetic_notes(config, stored, dtype, quantization)
        for note in notes:
            advise(note)
        check_memory(stored.config, dtype, device, config, quantization)
        decoder = decoder_of(stored, dtype, device, quantization=quantization)
        if plain := plain_products(decoder):
            advise(plain)
        return decoder, tokenizer, gsr


@contextmanager
def open_weights(folder: Path, model: ModelConfig, adapter: Path | None) -> Iterator[ModelTensors]:
    """The weights of a folder, with the adapter of another folder merged into them.

    Raises:
        CheckpointError, UnsupportedModel, OutOfMemory: as `open_tensors` and `open_adapted`.
    """
    with ExitStack() as stack:
        stored: ModelTensors = stack.enter_context(open_tensors(folder, model))
        if adapter is not None:
            stored = stack.enter_context(open_adapted(stored, adapter))
        yield stored


def _prompts(folder: Path, adapter: Path | None, notes: list[str]) -> GsrConfig:
    """What gsr.json says: that of the adapter if it has one, because it was trained so."""
    if adapter is None:
        return GsrConfig.from_folder(folder)
    notes += adapter_notes(adapter, folder)
    if not (adapter / "gsr.json").exists():
        return GsrConfig.from_folder(folder)
    if (folder / "gsr.json").exists():
        notes.append(f"gsr.json of the adapter {adapter.name} counts, not that of {folder.name}")
    return GsrConfig.from_folder(adapter)
