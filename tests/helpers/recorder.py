"""Drives an engine with forced tokens and records the logits that it drew them from."""

from __future__ import annotations

import random

import pytest
import torch

from gsr_engine.execution.sampler import PendingDraws
from gsr_engine.requests.request import Stream


class Recorder:
    """Stands in for the sampler: any token, but every row of logits kept per stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vocab: range, seed: int = 0) -> None:
        self.logits: dict[Stream, list[torch.Tensor]] = {}
        self._vocab = vocab
        self._random = random.Random(seed)
        monkeypatch.setattr("gsr_engine.execution.sampler.Sampler.draw", self._draw)

    def _draw(
        self,
        logits: torch.Tensor,
        draw_rows: list[int],
        streams: list[Stream],
        assumed: list[list[int]] | None,
    ) -> PendingDraws:
        assert assumed is None
        for row, stream in zip(draw_rows, streams, strict=True):
            self.logits.setdefault(stream, []).append(logits[row].to(torch.float32, copy=True))
        tokens = torch.tensor([self._random.choice(self._vocab) for _ in streams])
        return PendingDraws(tokens, torch.zeros(len(tokens)), [], [])

    def of(self, stream: Stream) -> torch.Tensor:
        """Logits [generated tokens, vocabulary] of a stream."""
        return torch.stack(self.logits[stream])
