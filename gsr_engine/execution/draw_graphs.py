"""Head and draws of a decode step as CUDA graphs.

What distinguishes rows are the numbers of their streams' draws: temperature, top_k, top_p, min_p
and seed, which are written when other streams draw, and the index, which is written in every step.
Penalties, `min_tokens` and top log-probabilities differ in their sizes, so such steps draw eagerly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from csrc_triton import sample, token_logprobs
from gsr_engine.execution.capture import Replay, rungs
from gsr_engine.execution.sampler import PendingDraws, draw_arrays, draw_indices
from gsr_engine.model.decoder import Decoder
from gsr_engine.requests.request import Stream
from gsr_engine.step.transfer import put

_ROWS = (1, 2, 4, 8, 16, 32, 64)
"""With more rows a step takes so long that the host has time for these few launches, and logits
would take much memory that nothing else may use."""


class DrawGraphs:
    """Draws of hidden states at a fixed address, by the number of rows."""

    def __init__(self, decoder: Decoder, hidden: torch.Tensor, drawn: torch.Tensor) -> None:
        """Draw from `hidden`, [rows, hidden_size]; tokens go to `drawn`, int64 [draws]."""
        self._decoder, self._hidden, self._drawn = decoder, hidden, drawn
        rows, device = rungs(_ROWS, min(len(hidden), len(drawn)))[-1], drawn.device
        temperature, top_p, min_p, self._logprobs = (
            torch.ones(rows, device=device) for _ in range(4)
        )
        top_k, seeds, self._indices = (
            torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(3)
        )
        self._numbers = temperature, top_k, top_p, min_p, seeds
        self._replays: dict[int, Replay] = {}
        self.reset()

    @staticmethod
    def bytes_for(vocab_size: int, dtype: torch.dtype, most_rows: int) -> int:
        """Bytes that the largest draw allocates: logits, what of them is kept, and lists of it."""
        return rungs(_ROWS, most_rows)[-1] * vocab_size * (dtype.itemsize + 5)

    def capture(self, capture: Callable[[Callable[[], object]], Replay | None]) -> int:
        """Capture the graphs, largest first; returns how many there are. None is a failure."""
        rows = rungs(_ROWS, len(self._logprobs))
        found = {count: capture(self._draw(count)) for count in reversed(rows)}
        self._replays = {count: run for count in rows if (run := found[count]) is not None}
        return len(self._replays)

    def reset(self) -> None:
        """Forget the streams of the last step."""
        self._streams: list[Stream] = []
        self._are_plain = False

    def replay(self, streams: list[Stream], assumed: list[list[int]] | None) -> PendingDraws | None:
        """Draw a token for each stream; None if no graph can. See `Sampler.draw`."""
        count = len(streams)
        run = next((run for rows, run in self._replays.items() if rows >= count), None)
        if run is None:
            return None
        if streams != self._streams:
            self._take(streams)
        if not self._are_plain:
            return None
        put(draw_indices(streams, assumed), self._indices[:count])
        run()
        return PendingDraws(self._drawn[:count], self._logprobs[:count], [], [])

    def _take(self, streams: list[Stream]) -> None:
        self._streams = streams
        self._are_plain = not any(
            stream.params.edits_logits or stream.params.top_logprobs for stream in streams
        )
        if self._are_plain:
            for values, target in zip(draw_arrays(streams), self._numbers, strict=True):
                put(values, target[: len(streams)])

    def _draw(self, rows: int) -> Callable[[], object]:
        arguments = [values[:rows] for values in (*self._numbers, self._indices)]

        def draw() -> None:
            logits = self._decoder.logits(self._hidden[:rows])
            tokens = sample(logits, *arguments)
            self._drawn[:rows] = tokens
            self._logprobs[:rows] = token_logprobs(logits, tokens)

        return draw
