"""Draws the tokens of a step. A draw depends on its logits, its seed and its index alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch

from csrc_triton import sample, token_logprobs
from gsr_engine.execution.logits import LogitEdits, listed_tops, top_logprobs
from gsr_engine.outputs import TopLogprobs
from gsr_engine.requests.request import Stream
from gsr_engine.step.transfer import Fetched, to_device

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


class PendingDraws:
    """The draws of a step, which a GPU may still be computing; `token_ids`, int64, are there."""

    def __init__(
        self,
        token_ids: torch.Tensor,
        logprobs: torch.Tensor,
        tops: list[torch.Tensor],
        wanted: list[int],
    ) -> None:
        self.token_ids = token_ids
        self._fetched = Fetched([token_ids, logprobs, *tops])
        self._wanted = wanted

    def wait(self) -> Draws:
        """The draws, once they are known."""
        token_ids, logprobs, *tops = self._fetched.wait()
        return Draws(token_ids, logprobs, listed_tops(self._wanted, *tops) if tops else None)


class Sampler:
    """Keeps the parameters of the streams as tensors while the same streams go on."""

    def __init__(self) -> None:
        self._streams: list[Stream] = []
        self._params: _Params | None = None
        self._edits: LogitEdits | None = None
        self._wanted: list[int] = []

    @torch.inference_mode()
    def draw(
        self, logits: torch.Tensor, draw_rows: list[int], streams: list[Stream]
    ) -> PendingDraws:
        """One token per stream.

        Args:
            logits: [M, vocab_size], any float dtype.
            draw_rows: for each stream the row that it draws from; siblings share their first.
            streams: who draws; the index of a draw is the number of tokens drawn so far.
        """
        device = logits.device
        if not streams:
            nothing = torch.empty(0, dtype=torch.int64, device=device)
            return PendingDraws(nothing, nothing, [], [])
        if self._params is None or streams != self._streams:
            self._params = self._take(streams, logits)
        numbers = [stream.num_drawn for stream in streams]
        indices = to_device(np.array(numbers, dtype=np.int64), device)
        mine = logits[: len(draw_rows)]
        if draw_rows != list(range(len(draw_rows))):
            mine = logits[to_device(np.array(draw_rows, dtype=np.int64), device)]
        if self._edits or not mine.is_cuda:
            mine = mine.float()
        with self._edits.applied(mine) if self._edits else nullcontext():
            tokens = _in_chunks(sample, mine, *self._params, indices)
        logprobs = _in_chunks(token_logprobs, mine, tokens)
        tops = top_logprobs(mine, self._wanted) if any(self._wanted) else []
        return PendingDraws(tokens, logprobs, tops, self._wanted)

    def _take(self, streams: list[Stream], logits: torch.Tensor) -> _Params:
        self._streams = streams
        device, before = logits.device, self._edits
        edits = any(stream.params.edits_logits for stream in streams)
        self._edits = LogitEdits(streams, logits.shape[1], device, before) if edits else None
        self._wanted = [stream.params.top_logprobs for stream in streams]
        return _tensors(streams, device)


def draw_anything(logits: torch.Tensor) -> None:
    """Draw from logits as a plain stream would, to see what that takes."""
    rows, device = len(logits), logits.device
    ones = torch.ones(rows, device=device)
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    tokens = sample(logits, ones, zeros, ones, torch.zeros_like(ones), zeros, zeros)
    token_logprobs(logits, tokens)


def _in_chunks(
    function: Callable[..., torch.Tensor], logits: torch.Tensor, *per_row: torch.Tensor
) -> torch.Tensor:
    """The function over some rows at a time."""
    rows = max(1, _CHUNK // logits.shape[1])
    if logits.is_cuda or len(logits) <= rows:
        return function(logits, *per_row)
    chunks = zip(*(torch.split(x, rows) for x in (logits, *per_row)), strict=True)
    return torch.cat([function(*chunk) for chunk in chunks])


def _tensors(streams: list[Stream], device: torch.device) -> _Params:
    """temperature, top_k, top_p, min_p and seed of each stream, as `sample` takes them."""
    params = [stream.params for stream in streams]

    def floats(values: list[float]) -> torch.Tensor:
        return to_device(np.array(values, dtype=np.float32), device)

    def integers(values: list[int]) -> torch.Tensor:
        return to_device(np.array(values, dtype=np.int64), device)

    return (
        floats([p.temperature for p in params]),
        integers([p.top_k for p in params]),
        floats([p.top_p for p in params]),
        floats([p.min_p for p in params]),
        integers([stream.seed for stream in streams]),
    )
