"""Digests of weights and tokenizers: equal where the contents are, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gsr_engine.checkpoint.digest import tokenizer_digest, weights_digest
from gsr_engine.errors import CheckpointError


def write(folder: Path, name: str, *values: float) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.tensor(values)}, folder / name)
    return folder


def test_weights_differ_in_a_single_value(tmp_path: Path) -> None:
    one = weights_digest(write(tmp_path / "one", "model.safetensors", 1.0, 2.0))
    assert weights_digest(write(tmp_path / "same", "other.safetensors", 1.0, 2.0)) == one
    assert weights_digest(write(tmp_path / "other", "model.safetensors", 1.0, 2.0000002)) != one


def test_every_shard_counts_and_other_files_do_not(tmp_path: Path) -> None:
    write(tmp_path / "one", "model-1.safetensors", 1.0)
    folder = write(tmp_path / "one", "model-2.safetensors", 2.0)
    both = weights_digest(folder)
    (folder / "README.md").write_text("another text")
    assert weights_digest(folder) == both
    write(folder, "model-2.safetensors", 3.0)
    assert weights_digest(folder) != both


def test_a_tokenizer_is_its_file(qwen2: Path, tmp_path: Path) -> None:
    shutil.copy(qwen2 / "tokenizer.json", tmp_path)
    assert tokenizer_digest(tmp_path) == tokenizer_digest(qwen2)
    with (tmp_path / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert tokenizer_digest(tmp_path) != tokenizer_digest(qwen2)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        weights_digest(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read: No such file"):
        tokenizer_digest(tmp_path)
