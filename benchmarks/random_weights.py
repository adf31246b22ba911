"""Models of real shapes with random weights: the work is real, the words are not.

A checkpoint is written once, as a folder, because other engines read it too. `engine_over` needs no
folder. The tokenizer is nano's. Most vocabularies are larger than nano's, so prompts are token ids
and the generated text is never read.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

from gsr_engine import Engine, EngineConfig, InvalidRequest
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.demo.report import NANO
from gsr_engine.execution.runner import StepRunner
from gsr_engine.model.decoder import Decoder
from gsr_engine.programs.template import Template

ROOT = Path("runs/random-weights")

_QWEN_05B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
}
_QWEN_7B: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
}
_QWEN_32B: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 5120,
    "intermediate_size": 27_648,
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "32b": _QWEN_32B,
    "7b": _QWEN_7B,
    "0.5b": _QWEN_05B,
    "26m": {
        "vocab_size": 32_000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32_768,
    },
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
}
"""Qwen2.5-32B, 7B and 0.5B, one of about 26M parameters without its embedding, one for tests."""

# Each digit is one token of nano's. Each text has as many tokens as the built-in template's words
# have in a tokenizer of this model family; nothing is restated.
_TEMPLATE = Template(
    direct="1" * 18,
    preamble="2" * 24,
    separator="3" * 6,
    linear="4" * 38,
    restate=None,
    branched="5" * 50,
)
_GSR = GsrConfig(layouts=("linear", "branched"), template=_TEMPLATE, thinking=None)


def shape_config(shape: str) -> Qwen2Config:
    """A shape as transformers describes it.

    Raises:
        InvalidRequest: there is no such shape.
    """
    if shape not in SHAPES:
        raise InvalidRequest("shape", f"must be one of {', '.join(SHAPES)}, got {shape!r}")
    sizes = {"tie_word_embeddings": True, **SHAPES[shape]}
    # This scale keeps the variance of the activations: smaller weights would hide the context.
    scale = sizes["hidden_size"] ** -0.5
    return Qwen2Config(**sizes, rms_norm_eps=1e-6, initializer_range=scale)


def write_checkpoint(shape: str, root: Path = ROOT, device: str = "cpu") -> Path:
    """The folder of a checkpoint in bf16 that claims both layouts; written if it is missing.

    The numbers are drawn on the device: each kind of device draws others.

    Raises:
        InvalidRequest: there is no such shape.
    """
    config = shape_config(shape)
    folder = root / shape
    if (folder / "gsr.json").exists():
        return folder
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():  # zero biases and unit norms would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(NANO / name, folder)
    # Written last: a folder that has this file is whole.
    _GSR.save(folder)
    return folder


def random_engine(shape: str, **options: Any) -> Engine:
    """An engine over a random checkpoint; `options` are fields of `EngineConfig`."""
    return Engine.from_pretrained(write_checkpoint(shape), **options)


def model_config(shape: str) -> ModelConfig:
    """A shape as the engine describes it."""
    raw = shape_config(shape).to_dict()
    return ModelConfig.from_dict({**raw, "architectures": ["Qwen2ForCausalLM"]})


def engine_over(decoder: Decoder, runner: StepRunner | None = None, /, **options: Any) -> Engine:
    """An engine over a decoder that is in memory; `options` as in `random_engine`.

    `runner` carries its steps out; None builds one.
    """
    tokenizer = Tokenizer.from_folder(NANO)
    return Engine(decoder, tokenizer, _GSR, EngineConfig(**options), runner=runner)


def random_problems(count: int, tokens: int, seed: int = 0) -> list[str]:
    """Texts of digits; each digit is one token of nano's tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(10, (count, tokens), generator=generator)
    return ["".join(map(str, row)) for row in digits.tolist()]
