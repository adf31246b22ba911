"""Tiny GGUF files, written by the package `gguf` from checkpoints that transformers made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.helpers.chat_tokenizers import chat_tokenizer
from tests.helpers.gguf_conversion import architecture, shape, stored_tensors

SHAPE = {
    "hidden_size": 256,  # K-quants have blocks of 256
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, _, BYTE = range(1, 7)


def tiny_model(kind: str, **config: Any) -> PreTrainedModel:
    """A random model of a type in transformers, with the vocabulary of `tiny_tokenizer`."""
    torch.manual_seed(0)
    fields = {**SHAPE, "vocab_size": len(tiny_tokenizer()), **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter) * 0.1
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval()


def tiny_tokenizer(template: str = "plain") -> PreTrainedTokenizerFast:
    """Byte-level BPE with GPT-2's words."""
    return chat_tokenizer("byte-level", template)


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    kind: str = "F32",
    tokenizer: dict[str, Any] | None = None,
    **metadata: Any,
) -> Path:
    """Write a model as llama.cpp's converter does, its matrices in one type.

    Args:
        path: the file.
        model: of a type in `gguf_conversion.ARCHITECTURES`.
        kind: a type with a quantiser in the package, or Q4_K or Q6_K: then blocks are random.
        tokenizer: `tokenizer.*` fields; those of `tiny_tokenizer` by default.
        metadata: more fields, or others; `__` stands for a dot, None leaves a field out.
    """
    writer = gguf.GGUFWriter(path, architecture(model.config))
    given = {name.replace("__", "."): value for name, value in metadata.items()}
    fields = {
        **{f"{architecture(model.config)}.{name}": value for name, value in shape(model).items()},
        **(tokenizer or tokenizer_fields(tiny_tokenizer())),
        **given,
    }
    for name, value in fields.items():
        if value is not None:
            writer.add_key_value(name, value, _type(value), _element_type(value))
    for name, values in stored_tensors(model).items():
        own = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
        writer.add_tensor(name, _quantised(values, own), raw_dtype=own)
    finish(writer)
    return path


def finish(writer: gguf.GGUFWriter) -> None:
    """Write what was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tensor(path: Path, name: str, values: np.ndarray[Any, Any], kind: str = "F32") -> Path:
    """Write the file again with one tensor more, or in the place of one."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(
        path.with_suffix(".new"), reader.fields["general.architecture"].contents()
    )
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        if tensor.name != name:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.add_tensor(name, values, raw_dtype=gguf.GGMLQuantizationType[kind])
    finish(writer)
    return path.with_suffix(".new").replace(path)


def tokenizer_fields(
    tokenizer: PreTrainedTokenizerFast, model: str = "gpt2", pre: str = "gpt-2"
) -> dict[str, Any]:
    """The fields that llama.cpp's converter writes for a BPE tokenizer of Hugging Face."""
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    types = dict.fromkeys(tokens, NORMAL)
    if model == "llama":
        types |= {token: BYTE for token in tokens if token.startswith("<0x")}
    for token in raw["added_tokens"]:
        types[token["content"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [" ".join(pair) for pair in raw["model"]["merges"]]
    ranks = {merge.replace(" ", ""): rank for rank, merge in reversed(list(enumerate(merges)))}
    words: dict[str, Any] = (
        {"pre": pre, "merges": merges}
        if model == "gpt2"
        else {"scores": [-float(ranks.get(token, len(merges))) for token in tokens]}
    )
    fields = {
        "model": model,
        **words,
        "tokens": tokens,
        "token_type": list(types.values()),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "add_bos_token": model == "llama",
    }
    return {
        **{f"tokenizer.ggml.{name}": value for name, value in fields.items()},
        "tokenizer.chat_template": tokenizer.chat_template,
    }


def _quantised(
    values: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType
) -> np.ndarray[Any, Any]:
    factors = {"Q4_K": (0, 4), "Q6_K": (208, 210)}  # bytes of a block that hold fp16
    if kind.name not in factors:
        quantised: np.ndarray[Any, Any] = gguf.quantize(values, kind)
        return quantised
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (values.size // block, size), dtype=np.uint8)
    first, last = factors[kind.name]
    blocks[:, first:last] = np.full((len(blocks), (last - first) // 2), 1e-4, "<f2").view(np.uint8)
    return blocks.reshape(*values.shape[:-1], -1)


def _type(value: Any) -> gguf.GGUFValueType:
    if isinstance(value, list):
        return gguf.GGUFValueType.ARRAY
    return gguf.GGUFValueType.get_type(value) if not isinstance(value, int) else _integer(value)


def _integer(value: int) -> gguf.GGUFValueType:
    kinds = gguf.GGUFValueType
    return kinds.BOOL if isinstance(value, bool) else kinds.UINT32


def _element_type(value: Any) -> gguf.GGUFValueType | None:
    return gguf.GGUFValueType.get_type(value[0]) if isinstance(value, list) else None
