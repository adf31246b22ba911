"""Edits of logits before a draw (penalties, `min_tokens`), and the most likely tokens.

Only the few logits that change are touched, and they are restored after the draw. So the reported
log-probabilities are those of the model, and streams without edits cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy

import numpy as np
import torch
import torch.nn.functional as F

from csrc_triton.arrays import IntArray
from gsr_engine.kv.segments import Context
from gsr_engine.outputs import TopLogprobs
from gsr_engine.requests.request import Stream
from gsr_engine.step.transfer import to_device

Edit = tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]
"""Rows and token ids of edited logits, and their old values; equal pairs have equal values."""


_Member = tuple[int, Stream, list[int]]
"""A row, its stream, and the tokens that the row assumes to be drawn."""


class SeenTokens:
    """The distinct tokens that a stream is penalised for, ascending, and how often it drew each.

    It is built only from the tokens of the stream, so it is the same after a preemption.

    Attributes:
        token_ids: the distinct tokens, ascending: those of the prompt and those that it drew.
        counts: how often the stream drew each; 0 for a token of the prompt only.
    """

    def __init__(self, prompt: IntArray, token_ids: list[int]) -> None:
        every = np.concatenate([prompt, np.array(token_ids, dtype=np.int64)])
        self.token_ids, inverse = np.unique(every, return_inverse=True)
        self.counts = np.bincount(inverse[len(prompt) :], minlength=len(self.token_ids))
        self._taken = len(token_ids)

    def follow(self, token_ids: list[int]) -> None:
        """Count the tokens that the stream drew since the last call."""
        for token in token_ids[self._taken :]:
            index = int(np.searchsorted(self.token_ids, token))
            if index == len(self.token_ids) or self.token_ids[index] != token:
                self.token_ids = np.insert(self.token_ids, index, token)
                self.counts = np.insert(self.counts, index, 0)
            self.counts[index] += 1
        self._taken = len(token_ids)

    def after(self, assumed: list[int]) -> SeenTokens:
        """What the stream will have seen once it has drawn these tokens."""
        if not assumed:
            return self
        later = copy(self)
        later.counts = self.counts.copy()
        later._taken = 0
        later.follow(assumed)
        return later


class _Penalties:
    """The draws of a batch with penalties: their rows, strengths [S, 3] and seen tokens."""

    def __init__(
        self, members: list[_Member], before: _Penalties | None, device: torch.device
    ) -> None:
        known: dict[Stream, SeenTokens] = before.seen if before else {}
        prompts: dict[Context, IntArray] = {}  # siblings share theirs
        self.seen: dict[Stream, SeenTokens] = {
            s: known.get(s) or _seen(s, prompts) for _, s, _ in members
        }
        self._members = members
        strengths = [
            (s.params.repetition_penalty, s.params.presence_penalty, s.params.frequency_penalty)
            for _, s, _ in members
        ]
        self._strengths = to_device(np.array(strengths, dtype=np.float32), device)

    def apply(self, logits: torch.Tensor, unknown: torch.Tensor | None) -> Edit:
        """Edit logits in place; see `LogitEdits.applied`.

        The repetition penalty is that of CTRL (arXiv 1909.05858); presence and frequency penalties
        are OpenAI's.
        """
        rows, token_ids, counts, members = self._cells(unknown is not None, logits.device)
        if unknown is not None:
            last = unknown[rows]
            # Cells behind those of known tokens stand for the unknown ones, which may be known,
            # too: from an earlier draw. Then two cells are one logit, and both get the same value.
            token_ids = torch.where(token_ids < 0, last, token_ids)
            is_last = token_ids == last
            earlier = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            earlier.index_add_(0, rows, counts * is_last)
            counts = torch.where(is_last, earlier[rows] + 1, counts)
        repetition, presence, frequency = self._strengths[members].unbind(1)
        cells = rows, token_ids
        old = logits[cells]
        new = torch.where(old > 0, old / repetition, old * repetition)
        logits[cells] = new - presence * (counts > 0) - frequency * counts
        return cells, old

    def _cells(self, has_unknown: bool, device: torch.device) -> torch.Tensor:
        """int64 [4, cells]: of each seen token its row, id, count, and which member it is of.

        If tokens are in flight, a cell with id -1 follows for each member that has one.
        """
        for stream, seen in self.seen.items():
            seen.follow(stream.segment.token_ids)
        every = [self.seen[stream].after(assumed) for _, stream, assumed in self._members]
        lengths = [len(seen.token_ids) for seen in every]
        members = np.arange(len(every)).repeat(lengths)
        token_ids = [seen.token_ids for seen in every]
        counts = [seen.counts for seen in every]
        if has_unknown:
            flying = [i for i, (_, stream, _) in enumerate(self._members) if stream.in_flight]
            members = np.append(members, np.array(flying, dtype=np.int64))
            token_ids.append(np.full(len(flying), -1))
            counts.append(np.zeros(len(flying), dtype=np.int64))
        rows = np.array([row for row, _, _ in self._members])[members]
        cells = np.stack([rows, np.concatenate(token_ids), np.concatenate(counts), members])
        return to_device(cells, device)


class _Minimum:
    """The streams of a batch with `min_tokens`: until then they cannot draw an end token."""

    def __init__(self, members: list[_Member], vocab_size: int) -> None:
        self._members = [
            (row, stream, len(assumed), [t for t in stream.stop_token_ids if t < vocab_size])
            for row, stream, assumed in members
        ]

    def apply(self, logits: torch.Tensor) -> Edit:
        """Edit logits in place; see `LogitEdits.applied`."""
        closed = [
            (row, token)
            for row, stream, ahead, token_ids in self._members
            if stream.num_drawn + ahead < stream.params.min_tokens
            for token in token_ids
        ]
        pairs = np.array(closed, dtype=np.int64).reshape(-1, 2)
        rows, token_ids = to_device(np.ascontiguousarray(pairs.T), logits.device)
        cells = rows, token_ids
        old = logits[cells]
        logits[cells] = torch.full_like(old, float("-inf"))
        return cells, old


class LogitEdits:
    """The edits of the logits of one batch; row i belongs to stream i.

    The edits of a row depend only on its stream: its `SamplingParams`, the tokens that it drew and,
    for `repetition_penalty`, all tokens of its context. `assumed[i]` are tokens that row i takes
    for drawn, too. `before` are the edits of the last batch; the counts of streams that are in
    both are reused.
    """

    def __init__(
        self,
        streams: list[Stream],
        vocab_size: int,
        device: torch.device,
        before: LogitEdits | None = None,
        assumed: list[list[int]] | None = None,
    ) -> None:
        assumed = assumed or [[] for _ in streams]
        rows = list(zip(range(len(streams)), streams, assumed, strict=True))
        penalised = [member for member in rows if member[1].params.penalises]
        bounded = [member for member in rows if member[1].params.min_tokens]
        self._penalties: _Penalties | None = None
        if penalised:
            known = before._penalties if before else None
            self._penalties = _Penalties(penalised, known, device)
        self._minimum = _Minimum(bounded, vocab_size) if bounded else None

    @property
    def penalises(self) -> bool:
        """Whether any edit depends on the tokens that a stream drew."""
        return self._penalties is not None

    @property
    def seen(self) -> Mapping[Stream, SeenTokens]:
        """The tokens that each penalised stream has seen so far."""
        return self._penalties.seen if self._penalties else {}

    @contextmanager
    def applied(self, logits: torch.Tensor, unknown: torch.Tensor | None = None) -> Iterator[None]:
        """Edit logits in place, and restore them on leaving; this does not wait for a GPU.

        Args:
            logits: [N, vocab_size].
            unknown: int64 [N], what the stream of each row drew last, if that is in flight and
                only the device knows it; other rows have -1. None: no row has any.
        """
        done: list[Edit] = []
        if self._penalties:
            done.append(self._penalties.apply(logits, unknown))
        if self._minimum:
            done.append(self._minimum.apply(logits))
        yield
        # Reversed: both may have edited the same logit, and the first holds its original value.
        for cells, old in reversed(done):
            logits[cells] = old


def _seen(stream: Stream, prompts: dict[Context, IntArray]) -> SeenTokens:
    """The tokens that a stream has seen; those of its context only for `repetition_penalty`."""
    context = stream.segment.context if stream.params.repetition_penalty != 1.0 else ()
    if context not in prompts:
        shown = [np.array(span.token_ids, dtype=np.int64) for span in context]
        prompts[context] = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *shown]))
    return SeenTokens(prompts[context], stream.segment.token_ids)


def top_logprobs(logits: torch.Tensor, wanted: list[int]) -> list[torch.Tensor]:
    """Token ids and log-probabilities, [R, max(wanted)], of the R rows that want any."""
    rows = np.flatnonzero(wanted)
    logprobs = F.log_softmax(logits[to_device(rows, logits.device)], dim=-1, dtype=torch.float32)
    values, token_ids = logprobs.topk(min(max(wanted), logits.shape[1]), dim=-1)
    return [token_ids, values]


def listed_tops(
    wanted: list[int], token_ids: list[list[int]], logprobs: list[list[float]]
) -> list[TopLogprobs | None]:
    """For each row the number of top tokens that it wants; None for a row that wants none.

    `token_ids` and `logprobs` are the results of `top_logprobs` as lists.
    """
    found = zip(token_ids, logprobs, strict=True)
    return [list(zip(*next(found), strict=True))[:count] if count else None for count in wanted]
