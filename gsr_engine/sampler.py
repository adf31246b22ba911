"""Draws the tokens of a step. A draw depends on its logits, its seed and its index alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F

from csrc_triton import sample
from gsr_engine.logits import LogitEdits, top_logprobs
from gsr_engine.outputs import TopLogprobs
from gsr_engine.sequence import Sequence

# Logits that a CPU draws from at a time. A whole batch of a large vocabulary would be read anew
# from memory by every pass, and into fresh pages, which take longer than the passes themselves.
_CHUNK = 1 << 21

_Params = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Draws(NamedTuple):
    """One token for each draw of a step.

    Attributes:
        token_ids: what was drawn.
        logprobs: its log-probability under the model as it is: temperature 1, not truncated, not
            penalised. Not finite where the logits hold a NaN or +inf; such a token means nothing.
        tops: for each draw the most likely tokens, None where its stream does not ask; None as a
            whole where nobody does.
    """

    token_ids: list[int]
    logprobs: list[float]
    tops: list[TopLogprobs | None] | None = None


class Sampler:
    """Keeps the parameters of the streams as tensors while the same streams go on."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []
        self._params: _Params | None = None
        self._edits: LogitEdits | None = None
        self._tells_tops = False

    @torch.inference_mode()
    def draw(self, logits: torch.Tensor, draw_rows: list[int], sequences: list[Sequence]) -> Draws:
        """One token per sequence.

        Args:
            logits: fp32 [M, vocab_size].
            draw_rows: for each sequence the row that it draws from; siblings share their first.
            sequences: who draws; the index of a draw is the number of tokens generated so far.
        """
        if self._params is None or sequences != self._sequences:
            self._params = self._take(sequences, logits)
        indices = torch.tensor([len(s.segment.token_ids) for s in sequences], device=logits.device)
        one_each = draw_rows == list(range(len(draw_rows)))
        mine = logits[: len(draw_rows)] if one_each else logits[draw_rows]
        with self._edits.applied(mine) if self._edits else nullcontext():
            tokens = _in_chunks(sample, mine, *self._params, indices)
        logprobs = -_in_chunks(_negative_logprobs, mine, tokens)
        tops = top_logprobs(mine, sequences) if self._tells_tops else None
        return Draws(tokens.tolist(), logprobs.tolist(), tops)

    def _take(self, sequences: list[Sequence], logits: torch.Tensor) -> _Params:
        self._sequences = sequences
        device, before = logits.device, self._edits
        edits = any(sequence.params.edits_logits for sequence in sequences)
        self._edits = LogitEdits(sequences, logits.shape[1], device, before) if edits else None
        self._tells_tops = any(sequence.params.top_logprobs for sequence in sequences)
        return _tensors(sequences, device)


def _in_chunks(
    function: Callable[..., torch.Tensor], logits: torch.Tensor, *per_row: torch.Tensor
) -> torch.Tensor:
    """The function over some rows at a time."""
    rows = max(1, _CHUNK // logits.shape[1])
    if logits.is_cuda or len(logits) <= rows:
        return function(logits, *per_row)
    chunks = zip(*(torch.split(x, rows) for x in (logits, *per_row)), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])


def _negative_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, tokens, reduction="none")


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
