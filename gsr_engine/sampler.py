"""Draws the tokens of a step. A draw depends on its logits, its seed and its index alone."""

from __future__ import annotations

import torch

from csrc_triton import sample
from gsr_engine.sequence import Sequence


class Sampler:
    """Keeps the parameters of the streams as tensors while the same streams go on."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._params: tuple[torch.Tensor, ...] = ()

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
        if sequences != self._sequences:
            self._sequences = sequences
            self._params = _tensors(sequences, logits.device)
        rows = torch.tensor(draw_rows, device=logits.device)
        indices = torch.tensor([len(s.segment.token_ids) for s in sequences], device=logits.device)
        mine = logits[rows]
        tokens = sample(mine, *self._params, indices)
        chosen = mine.gather(1, tokens[:, None]).squeeze(1)
        logprobs = chosen - logits.logsumexp(dim=1)[rows]
        return tokens.tolist(), logprobs.tolist()


def _tensors(sequences: list[Sequence], device: torch.device) -> tuple[torch.Tensor, ...]:
    """temperature, top_k, top_p, min_p and seed of each stream, as `sample` takes them."""
    params = [sequence.params for sequence in sequences]
    columns = (
        ([p.temperature for p in params], torch.float32),
        ([p.top_k for p in params], torch.int64),
        ([p.top_p for p in params], torch.float32),
        ([p.min_p for p in params], torch.float32),
        ([sequence.seed for sequence in sequences], torch.int64),
    )
    return tuple(torch.tensor(values, dtype=dtype, device=device) for values, dtype in columns)
