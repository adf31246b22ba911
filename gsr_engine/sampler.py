"""Draws the tokens of a step. A draw depends on its logits, its seed and its index alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from csrc_triton import sample
from gsr_engine.sequence import Sequence

_Params = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Sampler:
    """Keeps the parameters of the streams as tensors while the same streams go on."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._params: _Params | None = None

    @torch.inference_mode()
    def draw(
        self, logits: torch.Tensor, draw_rows: list[int], sequences: list[Sequence]
    ) -> tuple[list[int], list[float]]:
        """One token per sequence and its log-probability under the untruncated model.

        Args:
            logits: fp32 [M, vocab_size].
            draw_rows: for each sequence the row that it draws from; siblings share their first.
            sequences: who draws; the index of a draw is the number of tokens generated so far.
        """
        if self._params is None or sequences != self._sequences:
            self._sequences = sequences
            self._params = _tensors(sequences, logits.device)
        indices = torch.tensor([len(s.segment.token_ids) for s in sequences], device=logits.device)
        one_each = draw_rows == list(range(len(draw_rows)))
        mine = logits[: len(draw_rows)] if one_each else logits[draw_rows]
        tokens = sample(mine, *self._params, indices)
        logprobs = -F.cross_entropy(mine, tokens, reduction="none")
        return tokens.tolist(), logprobs.tolist()


def _tensors(sequences: list[Sequence], device: torch.device) -> _Params:
    """temperature, top_k, top_p, min_p and seed of each stream, as `sample` takes them."""
    params = [sequence.params for sequence in sequences]

    def floats(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return (
        floats([p.temperature for p in params]),
        integers([p.top_k for p in params]),
        floats([p.top_p for p in params]),
        floats([p.min_p for p in params]),
        integers([sequence.seed for sequence in sequences]),
    )
