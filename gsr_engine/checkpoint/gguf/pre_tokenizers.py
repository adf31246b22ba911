r"""How a text is cut into words before BPE, by the names in `tokenizer.ggml.pre`.

A name means what llama.cpp means by it, which is the pre-tokenizer of the checkpoints that it was
given for: each pattern cuts what the pattern before it left. Where llama.cpp has to write a pattern
otherwise because its own engine lacks case-insensitive groups or classes of letters, the pattern of
the checkpoints' `tokenizer.json` stands here. Texts are not normalised first, as in llama.cpp; the
`tokenizer.json` of Qwen also composes accents (NFC).

Transformers' own reader of GGUF files takes GPT-2's patterns for SmolLM2, whose name is `smollm`.
So `"  12"` has the ids 216 216 33 34 there, and 256 33 34 here and by SmolLM2's `tokenizer.json`:
the digits are cut off first, and the two spaces stay together.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str) -> str:
    return (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
    )


def _cased_words(digits: str, contractions: str) -> str:
    """Words that end before a capital inside of them."""
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    begin = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{begin}{upper}*{lower}+{contractions}|{begin}{upper}+{lower}*{contractions}|{digits}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    )


@dataclass(frozen=True, slots=True)
class PreTokenizing:
    """What a name in `tokenizer.ggml.pre` stands for.

    Attributes:
        patterns: regular expressions, in the order in which they cut.
        whole_words: whether a word that is a token is not built by merges.
        add_bos: whether a prompt begins with the start token, unless the file says it.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False

    def pre_tokenizer(self) -> PreTokenizer:
        """It cuts a text into words, and spells their bytes."""
        splits = [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_DIGIT, _THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}"
_PLAIN = PreTokenizing((_GPT2,))
_SINGLE_DIGITS = PreTokenizing((_DIGIT, _GPT2))
_LLAMA3 = PreTokenizing((_words(_THREE_DIGITS),), whole_words=True, add_bos=True)
_QWEN2 = PreTokenizing((_words(_DIGIT),))
_GPT4O = PreTokenizing((_cased_words(_THREE_DIGITS, _CONTRACTIONS + "?"),))

PRE_TOKENIZERS = {
    "default": PreTokenizing((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "exaone4", "granite-docling"), _PLAIN),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        _SINGLE_DIGITS,
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe"), PreTokenizing(_LLAMA3.patterns)),
    **dict.fromkeys(
        ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "stablelm2", "hunyuan"), _QWEN2
    ),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
    "tekken": PreTokenizing((_cased_words(_DIGIT, ""),), whole_words=True, add_bos=True),
}
"""By name. Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp"""
