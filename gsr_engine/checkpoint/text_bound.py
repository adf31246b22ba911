"""How much text one token can stand for: what is longer can be refused before it is tokenised."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer as RawTokenizer
from tokenizers.pre_tokenizers import ByteLevel

SLACK = 16
"""How many times as much text a tokenizer is granted that may drop or compose some of it."""


def bytes_per_token(raw: RawTokenizer) -> int:
    """The most UTF-8 bytes that a text may have for each of its tokens.

    A token stands for at most the bytes of the longest entry of the vocabulary, added tokens
    included, as the file spells it: a spelling is never shorter than the text. This is exact if the
    tokenizer keeps every byte: BPE with a token for each byte, no normaliser, nothing removed
    between words.

    Any other tokenizer may make a text shorter. The four Unicode normal forms do so by less than
    `SLACK` times, so `SLACK` times the longest entry refuses no text that fits. Others drop white
    space or accents, or make one token of any unknown word, without a bound. For these a text is
    refused if only such a loss, of 15 of 16 bytes, could make it fit.
    """
    longest = max(len(entry.encode()) for entry in raw.get_vocab())
    return longest if _keeps_every_byte(json.loads(raw.to_str())) else SLACK * longest


def _keeps_every_byte(spec: dict[str, Any]) -> bool:
    model, vocab = spec["model"], spec["model"].get("vocab", {})
    if spec["normalizer"] is not None or model["type"] != "BPE":
        return False
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False  # then a token for a byte is not one for it at every place in a word
    if any(token["lstrip"] or token["rstrip"] for token in spec["added_tokens"]):
        return False  # such a token takes the white space around it along
    steps = _steps(spec["pre_tokenizer"])
    if not all(_removes_nothing(step) for step in steps):
        return False
    if any(step["type"] == "ByteLevel" for step in steps):
        return all(sign in vocab for sign in ByteLevel.alphabet())
    every = all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    return bool(model.get("byte_fallback")) and every


def _steps(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The pre-tokenizers that run one after the other."""
    if spec is None:
        return []
    return spec["pretokenizers"] if spec["type"] == "Sequence" else [spec]


def _removes_nothing(step: dict[str, Any]) -> bool:
    kept = step["type"] in ("ByteLevel", "Digits", "Metaspace", "UnicodeScripts")
    return kept or (step["type"] == "Split" and step["behavior"] != "Removed")
