"""Edits of logits before a draw (penalties, `min_tokens`), and the most likely tokens.

Only the few logits that change are touched, and they are restored after the draw. So the reported
log-probabilities are those of the model, and streams without edits cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from gsr_engine.kv.segments import Context
from gsr_engine.outputs import TopLogprobs
from gsr_engine.requests.request import Stream
from gsr_engine.step.transfer import to_device

IntArray = npt.NDArray[np.int64]
Cells = tuple[torch.Tensor, torch.Tensor]
"""Rows and token ids of some logits; all pairs are distinct."""


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
        self._rows = torch.tensor([row for row, _, _ in members], device=device)
        strengths = [
            (s.params.repetition_penalty, s.params.presence_penalty, s.params.frequency_penalty)
            for _, s, _ in members
        ]
        self._strengths = torch.tensor(strengths, dtype=torch.float32, device=device)

    def apply(self, logits: torch.Tensor) -> tuple[Cells, torch.Tensor]:
        """Edit logits in place; returns the edited cells and their old values.

        The repetition penalty is that of CTRL (arXiv 1909.05858); presence and frequency penalties
        are OpenAI's.
        """
        for stream, seen in self.seen.items():
            seen.follow(stream.segment.token_ids)
        every = [self.seen[stream].after(assumed) for _, stream, assumed in self._members]
        device = logits.device
        lengths = torch.tensor([len(seen.token_ids) for seen in every], device=device)
        token_ids = torch.from_numpy(np.concatenate([s.token_ids for s in every])).to(device)
        counts = torch.from_numpy(np.concatenate([s.counts for s in every])).to(device)
        strengths = self._strengths.repeat_interleave(lengths, dim=0)
        repetition, presence, frequency = strengths.unbind(1)
        cells = self._rows.repeat_interleave(lengths), token_ids
        old = logits[cells]
        new = torch.where(old > 0, old / repetition, old * repetition)
        logits[cells] = new - presence * (counts > 0) - frequency * counts
        return cells, old


class _Minimum:
    """The streams of a batch with `min_tokens`: until then they cannot draw an end token."""

    def __init__(self, members: list[_Member], vocab_size: int) -> None:
        self._members = [
            (row, stream, len(assumed), [t for t in stream.stop_token_ids if t < vocab_size])
            for row, stream, assumed in members
        ]

    def apply(self, logits: torch.Tensor) -> tuple[Cells, torch.Tensor]:
        """Edit logits in place; returns the edited cells and their old values."""
        closed = [
            (row, token)
            for row, stream, ahead, token_ids in self._members
            if stream.num_drawn + ahead < stream.params.min_tokens
            for token in token_ids
        ]
        pairs = torch.tensor(closed, dtype=torch.int64, device=logits.device).view(-1, 2)
        cells = pairs[:, 0], pairs[:, 1]
        old = logits[cells]
        logits[cells] = float("-inf")
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
    def seen(self) -> Mapping[Stream, SeenTokens]:
        """The tokens that each penalised stream has seen so far."""
        return self._penalties.seen if self._penalties else {}

    @contextmanager
    def applied(self, logits: torch.Tensor) -> Iterator[None]:
        """Edit logits [N, vocab_size] in place, and restore them on leaving."""
        done = [part.apply(logits) for part in (self._penalties, self._minimum) if part]
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
