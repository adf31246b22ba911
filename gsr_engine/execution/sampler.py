"""Draws the tokens of a step.

A draw depends only on the logits, parameters and seed of its stream, and on its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from csrc_triton import sample, token_logprobs
from csrc_triton.arrays import IntArray
from gsr_engine.execution.logits import LogitEdits, listed_tops, top_logprobs
from gsr_engine.kv.segments import Segment
from gsr_engine.outputs import TopLogprobs
from gsr_engine.requests.prompt_scores import Score
from gsr_engine.requests.request import Stream
from gsr_engine.step.transfer import Fetched, to_device


class Draws(NamedTuple):
    """One token for each draw of a step, and the scores of prompts.

    Attributes:
        token_ids: the drawn tokens.
        logprobs: their log-probabilities under the model at temperature 1, without truncation and
            penalties. Not finite if the logits hold a NaN or +inf; such a token means nothing.
        tops: for each draw the most likely tokens, or None if its stream did not ask for them.
            The whole field is None if no stream did.
        scores: one for each token that the plan scores, computed like `logprobs` and `tops`.
    """

    token_ids: list[int]
    logprobs: list[float]
    tops: list[TopLogprobs | None] | None = None
    scores: Sequence[Score] = ()


class PendingDraws:
    """The draws of a step, which a GPU may still be computing.

    `token_ids`, int64 on the device, may be used by later work on the same CUDA stream at once.
    """

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
        """The draws; waits until they are computed."""
        token_ids, logprobs, *tops = self._fetched.wait()
        return Draws(token_ids, logprobs, listed_tops(self._wanted, *tops) if tops else None)


@dataclass(slots=True)
class LastDraws:
    """The tokens that the last step drew, which the host may not know yet.

    Attributes:
        tokens: int64 [draws], on the device and at a fixed address.
        places: of each segment whose stream drew, the index of the draw; empty if every step is
            waited for.
    """

    tokens: torch.Tensor
    places: dict[Segment, int] = field(default_factory=dict)

    def of(self, streams: list[Stream]) -> torch.Tensor | None:
        """int64 [streams], on the device: the token in flight of each, -1 if it has none.

        None if no stream has any.
        """
        if not any(stream.in_flight for stream in streams):
            return None
        places = [self.places[s.segment] if s.in_flight else -1 for s in streams]
        sources = to_device(np.array(places, dtype=np.int64), self.tokens.device)
        return torch.where(sources < 0, -1, self.tokens[sources])  # -1 is an index, too


class Sampler:
    """Draws tokens; keeps the parameters as tensors until a step has other streams."""

    def __init__(self, last: LastDraws) -> None:
        """`last` are the draws of the step before, which penalties count, too."""
        self._last = last
        self.reset()

    def reset(self) -> None:
        """Forget the parameters of the last step: it may have ended in the middle."""
        self._streams: list[Stream] = []
        self._params: list[torch.Tensor] | None = None
        self._edits: LogitEdits | None = None
        self._wanted: list[int] = []

    @torch.inference_mode()
    def draw(
        self,
        logits: torch.Tensor,
        draw_rows: list[int],
        streams: list[Stream],
        assumed: list[list[int]] | None = None,
    ) -> PendingDraws:
        """One token per stream.

        Args:
            logits: [M, vocab_size], any float dtype.
            draw_rows: for each stream the row that it draws from; siblings draw their first tokens
                from the same row.
            streams: the streams that draw. The index of a draw is the number of tokens that its
                stream has drawn so far, those that it assumes among them.
            assumed: for each draw the tokens of a draft that it assumes to be drawn before it.
        """
        device = logits.device
        if not streams:
            nothing = torch.empty(0, dtype=torch.int64, device=device)
            return PendingDraws(nothing, nothing, [], [])
        # What a draw assumes counts for one step only.
        stale = assumed is not None and self._edits is not None
        if self._params is None or stale or streams != self._streams:
            self._params = self._take(streams, assumed, logits)
        arguments = [*self._params, to_device(draw_indices(streams, assumed), device)]
        mine = logits[: len(draw_rows)]
        if draw_rows != list(range(len(draw_rows))):
            mine = logits[to_device(np.array(draw_rows, dtype=np.int64), device)]
        edits = self._edits
        if edits:
            mine = mine.float()  # an edited logit is not rounded to the dtype of the logits
        unknown = self._last.of(streams) if edits and edits.penalises else None
        with edits.applied(mine, unknown) if edits else nullcontext():
            tokens = sample(mine, *arguments)
        logprobs = token_logprobs(mine, tokens)
        tops = top_logprobs(mine, self._wanted) if any(self._wanted) else []
        return PendingDraws(tokens, logprobs, tops, self._wanted)

    def _take(
        self, streams: list[Stream], assumed: list[list[int]] | None, logits: torch.Tensor
    ) -> list[torch.Tensor]:
        self._streams = streams
        device, before = logits.device, self._edits
        edits = any(stream.params.edits_logits for stream in streams)
        self._edits = None
        if edits:
            self._edits = LogitEdits(streams, logits.shape[1], device, before, assumed)
        self._wanted = [stream.params.top_logprobs for stream in streams]
        return [to_device(values, device) for values in draw_arrays(streams)]


def draw_anything(logits: torch.Tensor) -> None:
    """Draw from logits with default parameters, only to measure the memory that it takes."""
    rows, device = len(logits), logits.device
    ones = torch.ones(rows, device=device)
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    tokens = sample(logits, ones, zeros, ones, torch.zeros_like(ones), zeros, zeros)
    token_logprobs(logits, tokens)


def draw_indices(streams: list[Stream], assumed: list[list[int]] | None) -> IntArray:
    """For each draw the number of tokens that its stream has drawn or assumes before it."""
    numbers = np.array([stream.num_drawn for stream in streams], dtype=np.int64)
    if assumed is not None:
        numbers += np.array([len(before) for before in assumed], dtype=np.int64)
    return numbers


def draw_arrays(streams: list[Stream]) -> list[npt.NDArray[Any]]:
    """Temperature, top_k, top_p, min_p and seed of each stream, as `sample` needs them."""
    numbers = [stream.params.draw_numbers for stream in streams]
    temperatures, top_ks, top_ps, min_ps = zip(*numbers, strict=True)
    return [
        np.array(temperatures, dtype=np.float32),
        np.array(top_ks, dtype=np.int64),
        np.array(top_ps, dtype=np.float32),
        np.array(min_ps, dtype=np.float32),
        np.array([stream.seed for stream in streams], dtype=np.int64),
    ]
