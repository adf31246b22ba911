"""The trained model as a Hugging Face folder, written file by file: no rank holds it whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from train.files import replace_folder
from train.trainer.lora import merged
from train.trainer.model import Trainee, stored_tensors

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
    """Write safetensors in `dtype`, with adapters merged; all other files are the source's.

    config.json, tokenizer and templates are copied, because transformers 5 would write names that
    other readers do not know. All ranks must call it, because parameters are gathered one by one.

    Args:
        trainee: the model.
        folder: where it goes; an older folder there is replaced.
        source: folder of the checkpoint that the training started from.
        dtype: of the tensors on disk.
        extra: files that replace the source's files of the same names.
        writes: whether this rank writes; exactly one rank does.
        shard_bytes: most bytes of a file.
    """
    partial = folder.with_name(folder.name + ".partial")
    if writes:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    shard: dict[str, torch.Tensor] = {}
    places: dict[str, int] = {}
    filled, number = 0, 1
    for name, tensor in _whole_tensors(trainee, dtype):
        if not writes:
            continue
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
        for file in extra:
            shutil.copy(file, partial / file.name)
        replace_folder(partial, folder)


def _whole_tensors(trainee: Trainee, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    for name, part in stored_tensors(trainee).items():
        whole = part.full_tensor() if isinstance(part, DTensor) else part
        yield name, merged(trainee.hf, name, whole).to("cpu", dtype).contiguous()


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
    for file in source.iterdir():
        kept = file.suffix in (".json", ".jinja", ".txt", ".model")
        if file.is_file() and kept and file.name != "model.safetensors.index.json":
            shutil.copy(file, folder / file.name)
    config = json.loads((folder / "config.json").read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
