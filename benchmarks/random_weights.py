"""Engines with random weights of known shapes: cost is a matter of shape, not of learning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gsr_engine import Engine, InvalidRequest
from gsr_engine.config import EngineConfig, ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.gsr_config import GsrConfig
from gsr_engine.tokenizer import Tokenizer
from gsr_engine.weights import dummy_decoder

SHAPES: dict[str, dict[str, Any]] = {
    # https://huggingface.co/Qwen/Qwen2.5-0.5B/blob/main/config.json
    "0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151_936,
        "max_position_embeddings": 32_768,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    },
    "26m": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 1408,
        "vocab_size": 32_000,
        "max_position_embeddings": 16_384,
        "tie_word_embeddings": True,
    },
    "tiny": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
}
"""`config.json` of each shape. "26m": with its tied embeddings; "tiny": for tests."""


def random_engine(shape: str, **options: Any) -> Engine:
    """An engine with seeded random weights of one of `SHAPES`.

    Tokenizer and prompts are nano's: ids above its vocabulary decode to nothing. It claims both
    layouts and no thinking, and reads candidates as they were generated, so that what a run
    computes depends on lengths and hardly on what was drawn.

    Args:
        shape: a name of `SHAPES`.
        options: fields of `EngineConfig`; the dtype "auto" is the shape's own, fp32 or bf16.

    Raises:
        InvalidRequest: there is no such shape, or an option is out of range.
    """
    if shape not in SHAPES:
        raise InvalidRequest("shape", f"must be one of {', '.join(SHAPES)}, got {shape!r}")
    model = ModelConfig.from_dict({"rms_norm_eps": 1e-6, **SHAPES[shape]})
    config = EngineConfig(**options)
    dtype = model.dtype if config.dtype == "auto" else config.dtype
    decoder = dummy_decoder(model, getattr(torch, dtype))
    nano = GsrConfig.from_folder(NANO)
    gsr = replace(nano, thinking=None, candidate_kv="as_generated")
    return Engine(decoder, Tokenizer.from_folder(NANO), gsr, config)
