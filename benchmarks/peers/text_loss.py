"""How well an engine predicts a text. Peers run in environments without this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np

Logits = np.ndarray[Any, Any]


def next_token_loss(logits: Logits, token_ids: Sequence[int]) -> float:
    """Mean of -log p of each token but the first, in nats; logits are [tokens, vocabulary]."""
    rows = np.asarray(logits[:-1], dtype=np.float32)
    greatest = rows.max(axis=1)
    normaliser = greatest + np.log(np.exp(rows - greatest[:, None]).sum(axis=1))
    drawn = rows[np.arange(len(rows)), token_ids[1:]]
    return float((normaliser - drawn).mean(dtype=np.float64))


def text_loss(logits_of: Callable[[list[int]], Logits], texts: Sequence[list[int]]) -> float:
    """Mean loss over texts of one length, each a context of its own."""
    return fmean(next_token_loss(logits_of(text), text) for text in texts)
