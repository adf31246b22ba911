"""nano before training: its tokenizer, its prompts, and its first weights.

A token of a solution names its place and its line ("d₁2", "d₁⁰"). The first embedding of such a
token is the sum of what it names. Half of the queries begin as the keys of the *next* place of the
same product, the other half as the keys of the next place of the next product. So from the first
step on, a token attends to the tokens of every candidate that it follows from.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaAttention

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.puzzles import ANSWER_PATTERN, BASE, CARRIES, LINES, PLACES
from gsr_engine.errors import InvalidRequest
from gsr_engine.programs.template import Template

SPECIAL = ("<pad>", "<bos>", "<eos>", "<user>", "<assistant>", "<unk>")
THINKING = ("<think>", "</think>")
PROMPT_WORDS = ("Drafts:", "•", "Refine:")
SIGNS = tuple("()+=;×")
DIGITS = tuple("0123456789")
NANO_WIDTH = 128

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def nano_gsr_config() -> GsrConfig:
    """The prompts and layouts of nano. `Refine:` and the problem, repeated, open a refinement."""
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
    """Every token: signs, digits, multipliers ("×₁"), cells ("d₁2", "d2") and carries ("d₁⁰")."""
    multipliers = [f"×{line}" for line in LINES]
    cells = [
        f"{place}{line}{digit}"
        for line in ("", *LINES)
        for place in PLACES
        for digit in DIGITS[:BASE]
    ]
    carries = [f"{place}{line}{carry}" for line in LINES for place in PLACES for carry in CARRIES]
    words = (*SPECIAL, *THINKING, *PROMPT_WORDS, *SIGNS, *DIGITS)
    return [*words, *multipliers, *cells, *carries]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that takes the longest token first and decodes by concatenation."""
    vocab = {token: index for index, token in enumerate(vocabulary())}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    cell = rf"[{PLACES}][{LINES}]?[0-{BASE - 1}]|[{PLACES}][{LINES}][{CARRIES}]|×[{LINES}]"
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


def nano_config(vocab_size: int, width: int = NANO_WIDTH) -> LlamaConfig:
    """Nano's shape: 3 layers of a width, with heads of 32 in pairs that share their keys.

    Raises:
        InvalidRequest: the width is not a multiple of 64.
    """
    if width < 64 or width % 64:
        raise InvalidRequest("width", f"must be a multiple of 64, got {width}")
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=3,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=SPECIAL.index("<eos>"),
        pad_token_id=SPECIAL.index("<pad>"),
        dtype="float32",
    )


def write_initial_checkpoint(
    folder: Path, gsr: GsrConfig, seed: int, width: int = NANO_WIDTH
) -> None:
    """An untrained nano as a Hugging Face folder with its tokenizer and gsr.json."""
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(nano_config(len(tokenizer), width))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            elif "embed_tokens" not in name:
                # Layers begin near the identity: they add little to the residual.
                scale = 0.1 if "o_proj" in name or "down_proj" in name else 1.0
                parameter.normal_(0.0, scale * parameter.shape[1] ** -0.5, generator=generator)
        words = _Words(model.config.hidden_size, generator)
        model.model.embed_tokens.weight.copy_(words.table)
        for layer in model.model.layers:
            _begin_by_reading(layer.self_attn, model.config.head_dim, words)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    gsr.save(folder)


class _Words:
    """First embeddings: each token is the sum of what it names; and the maps between places.

    Attributes:
        table: [vocabulary, width], rows of norm about 0.1 sqrt(width).
        next_place: [width, width]. An embedding times this matrix is the embedding of the next
            place to the right on the same line, without digit and carry.
        next_product: [width, width]. The same for the next place in the product of the next factor.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        unit = 0.1 / math.sqrt(3)

        def noise(rows: int, scale: float = unit) -> torch.Tensor:
            return scale * torch.randn(rows, width, generator=generator)

        places = unit * _circles(len(PLACES), 14, width, generator)
        lines = unit * _circles(len(LINES) + 1, 8, width, generator)
        digits, carries = noise(len(DIGITS)), noise(len(CARRIES))
        self.next_place, self.next_product = _next_maps(places, lines, digits, carries)
        is_carry = noise(1)[0]
        index = {token: row for row, token in enumerate(vocabulary())}
        self.table = noise(len(index), 0.1)
        for number, line in enumerate(("", *LINES)):
            if line:
                self.table[index[f"×{line}"]] = lines[number] + noise(1, unit * math.sqrt(2))[0]
            for place, vector in zip(PLACES, places, strict=True):
                where = lines[number] + vector
                for digit in range(BASE):
                    self.table[index[f"{place}{line}{digit}"]] = where + digits[digit]
                for carry, symbol in enumerate(CARRIES if line else ""):
                    cell = where + carries[carry] + is_carry
                    self.table[index[f"{place}{line}{symbol}"]] = cell
        for sign, vector in zip(DIGITS, digits, strict=True):
            self.table[index[sign]] = vector + noise(1, unit * math.sqrt(2))[0]


def _next_maps(
    places: torch.Tensor, lines: torch.Tensor, digits: torch.Tensor, carries: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`next_place` and `next_product` of `_Words`."""
    values = torch.cat([digits, carries])
    dropped = torch.zeros_like(values)
    next_place = _linear_map(
        torch.cat([places[1:], lines, values]), torch.cat([places[:-1], lines, dropped])
    )
    next_product = _linear_map(
        torch.cat([places[1:], lines[:-1], values]),
        torch.cat([places[:-1], lines[1:], dropped]),
    )
    return next_place, next_product


def _linear_map(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The matrix M of least norm with before M = after."""
    inverse: torch.Tensor = torch.linalg.pinv(before)
    return inverse @ after


def _begin_by_reading(attention: LlamaAttention, head_dim: int, words: _Words) -> None:
    """Make queries 0.7 times a key of the next place, in this or the next product; add noise."""
    query, key = attention.q_proj.weight, attention.k_proj.weight
    keys = key.view(-1, head_dim, key.shape[1])
    queries = query.view(keys.shape[0], -1, head_dim, key.shape[1])
    for turn in range(queries.shape[1]):
        wanted = keys @ (words.next_product if turn % 2 else words.next_place).T
        wanted = wanted * (keys.norm() / wanted.norm())
        queries[:, turn] = 0.7 * wanted + math.sqrt(1 - 0.7**2) * queries[:, turn]


def _circles(count: int, period: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """`count` vectors on a few random circles.

    One step further is the same rotation everywhere. So "one place to the right" is one linear map
    for all places.
    """
    frequencies = torch.arange(1, period // 2 + 1)
    angles = torch.arange(count)[:, None] * frequencies * (2 * math.pi / period)
    waves = torch.cat([angles.cos(), angles.sin()[:, :-1]], dim=1) / math.sqrt(period // 2)
    return waves @ torch.randn(waves.shape[1], width, generator=generator)
