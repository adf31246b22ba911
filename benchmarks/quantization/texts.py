"""The texts: English documents and Python code of this project, frozen so that figures compare."""

from __future__ import annotations

from pathlib import Path

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.errors import InvalidRequest

FOLDER = Path(__file__).parent / "texts"
NAMES = ("documents", "code")
LENGTH = 768
"""Tokens of a context."""
CONTEXTS = 4
"""Contexts of each text."""


def contexts(
    tokenizer: Tokenizer, length: int = LENGTH, number: int = CONTEXTS
) -> dict[str, list[list[int]]]:
    """The first `number` contexts of `length` tokens of each text, by the text's name.

    Raises:
        InvalidRequest: a text has fewer tokens in this tokenizer.
    """
    return {name: _cut(name, tokenizer, length, number) for name in NAMES}


def _cut(name: str, tokenizer: Tokenizer, length: int, number: int) -> list[list[int]]:
    token_ids = tokenizer.encode_text((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    if len(token_ids) < length * number:
        raise InvalidRequest(
            "contexts", f"{number} of {length} tokens are more than the {len(token_ids)} of {name}"
        )
    return [token_ids[length * at : length * (at + 1)] for at in range(number)]
