"""nano before training: its tokenizer, its prompts, and its first weights.

A token of a solution names its place and line ("d₁2", "d₁"). Embeddings of such tokens begin as the
sum of a place, a line and a digit vector, and queries begin close to keys: from the first step on a
label attends to the cells of the same place and line, in the problem's line above and in every
candidate. Without that the model learns to solve before it learns to read, and then never reads.
"""

from __future__ import annotations

import math
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


def nano_config(vocab_size: int) -> LlamaConfig:
    """Nano's shape: 3 layers of width 128."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=SPECIAL.index("<bos>"),
        eos_token_id=SPECIAL.index("<eos>"),
        pad_token_id=SPECIAL.index("<pad>"),
        dtype="float32",
    )


def write_initial_checkpoint(folder: Path, seed: int) -> None:
    """An untrained nano as a Hugging Face folder with its tokenizer and gsr.json."""
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(nano_config(len(tokenizer)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
            elif "embed_tokens" not in name:
                # Layers begin near the identity: what they add to the residual is small.
                scale = 0.1 if "o_proj" in name or "down_proj" in name else 1.0
                parameter.normal_(0.0, scale * parameter.shape[1] ** -0.5, generator=generator)
        for layer in model.model.layers:
            _begin_near_keys(layer.self_attn, model.config.head_dim)
        model.model.embed_tokens.weight.copy_(_embeddings(model.config.hidden_size, generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    nano_gsr_config().save(folder)


def _begin_near_keys(attention: torch.nn.Module, head_dim: int, share: float = 0.7) -> None:
    """Queries begin as 0.7 keys plus noise of the rest of the variance: equals match equals."""
    query, key = attention.q_proj.weight, attention.k_proj.weight
    kv_heads = key.shape[0] // head_dim
    keys = key.view(kv_heads, 1, head_dim, -1)
    keys = keys.expand(-1, query.shape[0] // key.shape[0], -1, -1).reshape(query.shape)
    query.copy_(share * keys + (1 - share**2) ** 0.5 * query)


def _embeddings(width: int, generator: torch.Generator) -> torch.Tensor:
    """Rows of norm about 0.1 √width; cells and labels are sums of what they name."""
    unit = 0.1 / math.sqrt(3)

    def noise(rows: int, scale: float) -> torch.Tensor:
        return scale * torch.randn(rows, width, generator=generator)

    table = noise(len(vocabulary()), 0.1)
    index = {token: row for row, token in enumerate(vocabulary())}
    digits = dict(zip(DIGITS, noise(len(DIGITS), unit), strict=True))
    places = dict(zip(PLACES, unit * _circles(len(PLACES), 14, width, generator), strict=True))
    rows = unit * _circles(len(LINES) + 1, 8, width, generator)
    lines = dict(zip(("", *LINES), rows, strict=True))
    for line, vector in lines.items():
        for place in PLACES:
            for digit in DIGITS:
                table[index[f"{place}{line}{digit}"]] = vector + places[place] + digits[digit]
            if line:
                table[index[f"{place}{line}"]] = vector + places[place] + noise(1, unit)[0]
        if line:
            table[index[f"×{line}"]] = vector + noise(1, unit * math.sqrt(2))[0]
    for digit, vector in digits.items():
        table[index[digit]] = vector + noise(1, unit * math.sqrt(2))[0]
    return table


def _circles(count: int, period: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """`count` vectors on a few random circles: one step further is the same rotation everywhere,
    so that "one place to the right" is one linear map for all places.
    """
    frequencies = torch.arange(1, period // 2 + 1)
    angles = torch.arange(count)[:, None] * frequencies * (2 * math.pi / period)
    waves = torch.cat([angles.cos(), angles.sin()[:, :-1]], dim=1) / math.sqrt(period // 2)
    return waves @ torch.randn(waves.shape[1], width, generator=generator)
