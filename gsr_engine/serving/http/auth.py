"""API keys: several, compared in constant time; every key has prefixes of its own in the cache."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from gsr_engine.errors import InvalidRequest

VARIABLE = "GSR_API_KEYS"
"""The environment variable that holds keys, with commas or white space between them."""


class Keys:
    """The API keys of a server. Only their SHA-256 digests are kept.

    Raises:
        InvalidRequest: there is no key among them, or one is no printable ASCII text.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        texts = [keys] if isinstance(keys, str) else list(keys)
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise InvalidRequest("auth", "a key is empty or no text")
            if not (text.isascii() and text.isprintable()) or " " in text:
                raise InvalidRequest("auth", "a key must be printable ASCII without spaces")
        if not texts:
            raise InvalidRequest("auth", "has no keys")
        self._digests = [_digest(text) for text in texts]

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The keys of a file, one a line; empty lines and those that begin with # do not count.

        Raises:
            InvalidRequest: the file cannot be read, or holds no key.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise InvalidRequest("auth", f"{path} cannot be read: {error}") from None
        kept = [line.strip() for line in lines]
        return cls(line for line in kept if line and not line.startswith("#"))

    @classmethod
    def from_environment(cls) -> Self | None:
        """The keys of the variable `GSR_API_KEYS`; None if it is not set.

        Raises:
            InvalidRequest: it is set, and holds no key.
        """
        text = os.environ.get(VARIABLE)
        return None if text is None else cls(text.replace(",", " ").split())

    def salt(self, header: str | None) -> str | None:
        """The cache salt of the key in an `Authorization` header; None if that is no valid key.

        Every key is compared in constant time, whichever is right.
        """
        scheme, _, given = (header or "").partition(" ")
        digest, valid = _digest(given.strip()), False
        for known in self._digests:
            valid |= hmac.compare_digest(known, digest)
        return None if not valid or scheme.lower() != "bearer" else f"key {digest.hex()}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()
