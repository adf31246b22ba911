"""nano before training: its tokenizer, its prompts, and weights that begin where attention can match.

A token of a solution names its place and line ("d₁2", "d₁"). Embeddings of such tokens begin as the
sum of a place, a line and a digit vector, and queries begin close to keys: from the first step on a
label attends to the cells of the same place and line, in the problem's line above and in every
candidate. Without that the model learns to solve before it learns to read, and then never reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gsr_engine.demo.puzzles import ANSWER_PATTERN, LINES, PLACES
from gsr_engine.gsr_config import GsrConfig, Template

SPECIAL = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>")
THINKING = ("<think>", "</think>")
PROMPT_WORDS = ("Drafts:", "•", "Refine:")
SIGNS = tuple("()+=;×\n")
DIGITS = tuple("0123456789")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def nano_gsr_config() -> GsrConfig:
    """What nano is trained for; `Refine:` and the problem once more open both refinements."""
    template = Template(
        direct="",
        preamble="Drafts:",
        separator="•",
        linear="Refine:",
        restate="",
        branched="Refine:",
    )
    return GsrConfig(
        layouts=("linear", "branched"),
        template=template,
        num_candidates=(1, 8),
        refine_position="after",
        candidate_kv="reread",
        thinking=THINKING,
        answer_pattern=ANSWER_PATTERN,
    )


def vocabulary() -> list[str]:
    """Every token: signs, digits, multipliers ("×₁"), labels ("d₁") and cells ("d₁2", "d2")."""
    multipliers = [f"×{line}" for line in LINES]
    labels = [f"{place}{line}" for line in LINES for place in PLACES]
    cells = [
        f"{place}{line}{digit}" for line in ("", *LINES) for place in PLACES for digit in DIGITS
    ]
    words = (*SPECIAL, *THINKING, *PROMPT_WORDS, *SIGNS, *DIGITS)
    return [*words, *multipliers, *labels, *cells]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Longest token first; decoding is plain concatenation."""
    vocab = {token: index for index, token in enumerate(vocabulary())}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    cell = rf"[{PLACES}][{LINES}]?[0-9]|[{PLACES}][{LINES}]|×[{LINES}]"
    pattern = rf"Drafts:|Refine:|{cell}|[\s\S]"
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    raw.decoder = decoders.Fuse()
    raw.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in THINKING])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
