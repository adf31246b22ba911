"""Tiny random checkpoints, made by transformers itself, so that it can be the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<think>", "</think>"]

SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
TWO_ROPES = {
    "full_attention": {**YARN, "rope_theta": 5000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
_GROWING = {"original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.3}
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 4},
    "llama3": {"rope_parameters": LLAMA3, "num_key_value_heads": 1},
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2-yarn": {"rope_parameters": YARN},
    "qwen2-window": {
        "use_sliding_window": True,
        "sliding_window": 12,
        "max_window_layers": 1,
    },
    "qwen3moe": {
        "head_dim": 16,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "mlp_only_layers": [1],
    },
    "phi3": {},
    "phi3-partial": {"partial_rotary_factor": 0.5, "head_dim": 16, "sliding_window": 20},
    "smollm3": {"num_hidden_layers": 4},
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 4, "sliding_window": 12, "rope_parameters": TWO_ROPES},
    "ministral3": {"head_dim": 16, "rope_parameters": {**YARN, **_GROWING}},
    "gemma3": {
        "num_hidden_layers": 4,
        "head_dim": 16,
        "sliding_window": 12,
        "query_pre_attn_scalar": 20,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
        "rope_parameters": TWO_ROPES,
    },
}
"""What distinguishes each; the name begins with transformers' model_type."""


def model_type(family: str) -> str:
    """What transformers calls the type of a family."""
    name = family.split("-")[0]
    return {"llama3": "llama", "gemma3": "gemma3_text", "qwen3moe": "qwen3_moe"}.get(name, name)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token per printable ASCII character, ChatML specials, <think> tags that are not special."""
    chars = [*map(chr, range(32, 127)), "\n"]
    vocab = {token: index for index, token in enumerate([*SPECIAL, *ADDED, *chars])}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in ADDED])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def make_checkpoint(
    folder: Path,
    family: str,
    *,
    seed: int = 0,
    config: dict[str, object] | None = None,
    **save: object,
) -> Path:
    """A random model of a family, a tokenizer and a generation config with two end tokens.

    `config` holds fields of its config.json besides those of the family.
    """
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    shape = AutoConfig.for_model(
        model_type(family),
        **{**SHAPE, **FAMILIES[family], **(config or {})},
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(shape).float()
    with torch.no_grad():  # livelier than the default init, so that logits differ between tokens
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2)
            elif "bias" in name:
                parameter.normal_(0.0, 0.1)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, **save)
    tokenizer.save_pretrained(folder)
    generation = {"eos_token_id": [tokenizer.eos_token_id, tokenizer.pad_token_id]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def load_oracle(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The same checkpoint in transformers, with eager attention, which takes any mask."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    ).eval()
