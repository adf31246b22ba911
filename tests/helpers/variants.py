"""Changes of a tiny checkpoint that transformers takes: each must be computed as it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.helpers.checkpoints import LLAMA3, YARN

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Tensors = dict[str, torch.Tensor]


def change_config(folder: Path, **changes: Any) -> None:
    """Set fields of config.json; `...` removes one."""
    file = folder / "config.json"
    raw = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in raw.items() if value is not ...}))


def change_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Rewrite the single file of weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()  # it may be a link to a file that others use
    save_file(change(tensors), file, metadata={"format": "pt"})


def _random_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5)) * 0.2


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_config(folder, **changes)


def _tensors(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    return lambda folder: change_tensors(folder, change)


def _index_beside_the_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    save_file(other, folder / "other.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(other, "other.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _without_prefix(tensors: Tensors) -> Tensors:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


_YARN_MORE = {"beta_fast": 16, "beta_slow": 2.0, "truncate": False}
VARIANTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "tied, own head": ("qwen2", _tensors(lambda t: t | {HEAD: _random_like(t[EMBEDDING])})),
    "tied, equal head": ("qwen2", _tensors(lambda t: t | {HEAD: t[EMBEDDING].clone()})),
    "tied, head alone": (
        "qwen2",
        _tensors(lambda t: {HEAD if n == EMBEDDING else n: one for n, one in t.items()}),
    ),
    "untied, equal head": ("llama3", _tensors(lambda t: t | {HEAD: t[EMBEDDING].clone()})),
    "names of the base model": ("qwen3", _tensors(_without_prefix)),
    "head under the model": (
        "mistral",
        _tensors(lambda t: {f"model.{n}" if n == HEAD else n: one for n, one in t.items()}),
    ),
    "stored frequencies": (
        "llama3",
        _tensors(
            lambda t: t | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((6,), 9.0)}
        ),
    ),
    "a tensor that no family has": (
        "llama3",
        _tensors(lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.full((48,), 9.0)}),
    ),
    "an index beside the file": ("qwen2", _index_beside_the_file),
    "rope_scaling beside rope_parameters": ("llama3", _config(rope_scaling=YARN)),
    "rope_scaling without theta": (
        "qwen3",
        _config(
            rope_scaling={n: value for n, value in YARN.items() if n != "rope_theta"},
            rope_parameters={"rope_type": "default", "rope_theta": 50.0},
        ),
    ),
    "rope_theta beside rope_parameters": (
        "qwen3",
        _config(rope_theta=77.0, rope_parameters={"rope_type": "default", "rope_theta": 50.0}),
    ),
    "old spelling": (
        "llama3",
        _config(
            rope_parameters=...,
            rope_theta=500.0,
            rope_scaling={**{n: v for n, v in LLAMA3.items() if n[:4] != "rope"}, "type": "llama3"},
        ),
    ),
    "rope_type beside type": (
        "qwen3",
        _config(rope_scaling={**YARN, "type": "linear"}, rope_parameters=...),
    ),
    "yarn, ramp": ("qwen2-yarn", _config(rope_parameters={**YARN, **_YARN_MORE})),
    "yarn, attention_factor": (
        "qwen2-yarn",
        _config(rope_parameters={**YARN, "attention_factor": 1.5}),
    ),
    "yarn, mscale": (
        "qwen2-yarn",
        _config(rope_parameters={**YARN, "mscale": 2.0, "mscale_all_dim": 0.5}),
    ),
    "yarn, original length outside": (
        "qwen2-yarn",
        _config(original_max_position_embeddings=32),
    ),
    "yarn, original length unsaid": (
        "qwen2-yarn",
        _config(
            rope_parameters={n: v for n, v in YARN.items() if n[:8] != "original"},
            max_position_embeddings=128,
        ),
    ),
    "window that no layer uses": (
        "qwen2",
        _config(use_sliding_window=True, sliding_window=8, max_window_layers=3, layer_types=...),
    ),
    "window that the rows fit": ("mistral", _config(sliding_window=1024)),
    "fields without effect": (
        "qwen2",
        _config(
            use_cache=False,
            temperature=0.5,
            _name_or_path="x",
            logits_scaling=1.0,
            no_rope_layers=[],
            num_experts=0,
        ),
    ),
    "no dtype": ("qwen2", _config(dtype=...)),
}
"""Name to the family that is changed, and the change."""


def make_variant(name: str, checkpoints: dict[str, Path], folder: Path) -> Path:
    """A changed copy of a family's checkpoint."""
    family, change = VARIANTS[name]
    shutil.copytree(checkpoints[family], folder)
    change(folder)
    return folder
