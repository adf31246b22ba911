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
FAMILIES = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 4},
    "llama3": {"rope_parameters": LLAMA3, "num_key_value_heads": 1},
    "mistral": {"sliding_window": None, "head_dim": 16},
    "qwen2-yarn": {"rope_parameters": YARN},
}


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


def make_checkpoint(folder: Path, family: str, *, seed: int = 0, **save: object) -> Path:
    """A random model of a family, a tokenizer and a generation config with two end tokens."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(
        family.split("3-")[0].split("-")[0].replace("llama3", "llama"),
        **{**SHAPE, **FAMILIES[family]},
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config).float()
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
