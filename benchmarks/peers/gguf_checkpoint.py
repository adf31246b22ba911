"""Writes a checkpoint of the Llama or Qwen2 family as GGUF, without its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

_ARCHITECTURES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
}
_TYPES = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def write_gguf(model: Path, dtype: str, file: Path) -> None:
    """Write the matrices in `dtype` or "q8_0"; biases and norms stay in fp32.

    Raises:
        ValueError: another architecture, or scaled rotary positions.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (name,) = config["architectures"]
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10_000.0)}
    if name not in _ARCHITECTURES or rope.get("rope_type", "default") != "default":
        raise ValueError(f"no GGUF of {name} with rotary positions {rope}")
    architecture = _ARCHITECTURES[name]
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, float(rope["rope_theta"]))
    quantization, file_type = _TYPES[dtype]
    writer.add_file_type(file_type)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    for key, tensor in _tensors(model):
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise ValueError(f"GGUF has no name for {key}")
        if architecture == gguf.MODEL_ARCH.LLAMA:
            tensor = _interleaved(key, tensor, config)
        kind = quantization if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(found, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)  # a file of this name is whole


def _describe(writer: gguf.GGUFWriter, config: dict[str, Any], theta: float) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def _tensors(model: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Names and values in fp32."""
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # it cannot be iterated
                yield key, opened.get_tensor(key).to(torch.float32).numpy()


def _interleaved(
    key: str, tensor: np.ndarray[Any, Any], config: dict[str, Any]
) -> np.ndarray[Any, Any]:
    """Rows of q and k as llama.cpp rotates them in a Llama: neighbours, not halves of a head."""
    fields = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for part, field in fields.items():
        if f".{part}." in key:
            halves = tensor.reshape(config[field], 2, -1, *tensor.shape[1:])
            return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor
