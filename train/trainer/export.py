"""The trained model as a Hugging Face folder, written file by file: no rank holds it whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from gsr_engine.checkpoint.files import SMALL_FILES, read_json
from train.files import replace_folder
from train.trainer.config import SftConfig
from train.trainer.lora import adapter_config, adapter_tensors, merged
from train.trainer.model import Trainee, stored_tensors
from train.trainer.sharded import whole

SHARD_BYTES = 4 * 2**30
"""Most bytes of a file, and of tensors that the first rank holds at once."""


def export_model(
    trainee: Trainee,
    folder: Path,
    source: Path,
    *,
    dtype: torch.dtype,
    extra: Sequence[Path] = (),
    writes: bool = True,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write safetensors in `dtype`, with adapters merged; the small files are the source's.

    config.json, tokenizer and templates are copied (`SMALL_FILES`), because transformers 5 would
    write names that other readers do not know. All ranks must call it, because parameters are
    gathered one by one.

    Args:
        trainee: the model.
        folder: where it goes; an older folder there is replaced.
        source: folder of the checkpoint that the training started from.
        dtype: of the tensors on disk.
        extra: files that replace the source's files of the same names.
        writes: whether this rank writes; exactly one rank does.
        shard_bytes: most bytes of a file.
    """
    partial = _begin(folder) if writes else folder
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, int] = {}
    filled, number = 0, 1
    for name, whole_one in _whole_tensors(trainee):
        if not writes:  # nothing is copied to the host
            continue
        tensor = whole_one.to("cpu", dtype).contiguous()
        size = tensor.numel() * tensor.itemsize
        if shard and filled + size > shard_bytes:
            save_file(shard, partial / _file(number), metadata={"format": "pt"})
            shard, filled, number = {}, 0, number + 1
        shard[name] = tensor
        places[name] = number
        filled += size
    if writes:
        save_file(shard, partial / _file(number), metadata={"format": "pt"})
        _write_index(partial, places, number)
        _copy_rest(source, partial, dtype)
        if not trainee.hf.config.tie_word_embeddings:  # the source may say otherwise
            _change_config(partial, tie_word_embeddings=False)
        _finish(partial, folder, extra)


def export_adapter(
    trainee: Trainee,
    folder: Path,
    config: SftConfig,
    *,
    extra: Sequence[Path] = (),
    writes: bool = True,
) -> None:
    """Write the adapters as peft loads them over the base model; all ranks must call it.

    Args:
        trainee: a model with adapters.
        folder: where they go; an older folder there is replaced.
        config: of the run; its model is named as the base.
        extra: further files.
        writes: whether this rank writes; exactly one rank does.
    """
    tensors = dict(adapter_tensors(trainee.hf))
    if not writes:
        return
    partial = _begin(folder)
    adapters = adapter_config(trainee.hf, config.lora, config.lora_alpha, config.lora_dropout)
    base = Path(config.model)
    adapters.base_model_name_or_path = str(base.resolve() if base.is_dir() else config.model)
    adapters.inference_mode = True
    adapters.save_pretrained(str(partial))
    save_file(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
    _finish(partial, folder, extra)


def _begin(folder: Path) -> Path:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _finish(partial: Path, folder: Path, extra: Sequence[Path]) -> None:
    for file in extra:
        shutil.copy(file, partial / file.name)
    # safetensors gives its files to the owner alone, and copies keep the source's mode.
    mode = partial.stat().st_mode & 0o666
    for file in partial.rglob("*"):
        if file.is_file():
            file.chmod(mode)
    replace_folder(partial, folder)


def _whole_tensors(trainee: Trainee) -> Iterator[tuple[str, torch.Tensor]]:
    for name, part in stored_tensors(trainee).items():
        yield name, merged(trainee.hf, name, whole(part))


def _file(number: int) -> str:
    return f"model-{number:05d}.safetensors"


def _write_index(folder: Path, places: dict[str, int], number: int) -> None:
    """A single file gets the plain name; several files get an index of their tensors."""
    if number == 1:
        (folder / _file(1)).rename(folder / "model.safetensors")
        return
    total = sum(file.stat().st_size for file in folder.glob("model-*.safetensors"))
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: _file(place) for name, place in places.items()},
    }
    text = json.dumps(index, indent=1)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


def _copy_rest(source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Copy what a checkpoint holds beside its weights; anything else in the source is left."""
    for pattern in SMALL_FILES:
        for file in source.glob(pattern):
            target = folder / file.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file, target)
    _change_config(folder, torch_dtype=None, dtype=str(dtype).removeprefix("torch."))


def _change_config(folder: Path, **changes: object) -> None:
    """Set fields of config.json; None removes one."""
    file = folder / "config.json"
    config = {**read_json(file), **changes}
    for name, value in changes.items():
        if value is None:
            del config[name]
    file.write_text(json.dumps(config, indent=2) + "\n")
