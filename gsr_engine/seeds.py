"""Derives the seed of one stream from one number and a path."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *path: int) -> int:
    """H(seed, path): a 63-bit seed for one stream, e.g. path = (prompt, phase, round, stream)."""
    text = ",".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
