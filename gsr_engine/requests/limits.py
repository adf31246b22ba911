"""The limits of an engine that every request is checked against, once, at submission."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gsr_engine.errors import InvalidRequest, PoolTooSmall, as_int, shown
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.params import SamplingParams

CANDIDATE_CONTEXTS = 4
"""A given candidate may be longer than the context, because only its summary is read: as long as
this many contexts. Its text is still made and searched between two steps, so it has a limit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one engine.

    Attributes:
        max_model_len: longest context in tokens.
        vocab_size: token ids are below it.
        num_pages: KV pages of the pool.
        max_num_seqs: most streams that decode at the same time.
        page_bytes: memory of a KV page.
    """

    max_model_len: int
    vocab_size: int
    num_pages: int
    max_num_seqs: int
    page_bytes: int

    def check_text(self, field: str, text: str, bytes_per_token: int, contexts: int = 1) -> None:
        """Raise InvalidRequest for a text too long for that many contexts in any tokens.

        The text is not tokenised: no token stands for more than `bytes_per_token`.
        """
        most = contexts * self.max_model_len * bytes_per_token
        size = len(text)  # a character takes 1 to 4 bytes
        if size <= most < 4 * size:
            size = len(text.encode(errors="surrogatepass"))
        if size > most:
            raise InvalidRequest(
                field,
                f"has {size} bytes or more: {contexts * self.max_model_len} tokens (max_model_len "
                f"{self.max_model_len}) are at most {most} bytes",
            )

    def check_prompt(self, field: str, token_ids: Sequence[object]) -> list[int]:
        """The ids of a prompt.

        Raises:
            InvalidRequest: it is empty, holds unknown ids, or leaves no room for one generated
                token.
        """
        length = len(token_ids)
        if not length:
            raise InvalidRequest(field, "is empty")
        if length >= self.max_model_len:
            excess = length + 1 - self.max_model_len
            raise InvalidRequest(
                field,
                f"has {length} tokens: {excess} too many for one generated token to fit into a "
                f"context of {self.max_model_len}",
            )
        return self.check_tokens(field, token_ids)

    def check_candidate(self, field: str, token_ids: Sequence[object]) -> list[int]:
        """The ids of a given candidate. Raises InvalidRequest if it is too long, or has others."""
        most = CANDIDATE_CONTEXTS * self.max_model_len
        if len(token_ids) > most:
            raise InvalidRequest(
                field,
                f"one has {len(token_ids)} tokens, at most {most} are read ({CANDIDATE_CONTEXTS} "
                f"times max_model_len {self.max_model_len})",
            )
        return self.check_tokens(field, token_ids)

    def check_tokens(self, field: str, token_ids: Sequence[object]) -> list[int]:
        """Token ids of any integer type, as ints. Raises InvalidRequest for anything else."""
        ids = []
        for given in token_ids:
            token = as_int(given)
            if token is None:
                raise InvalidRequest(field, f"token id {shown(given)} is no integer")
            if not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    field, f"token id {shown(token)} is outside 0..{self.vocab_size - 1}"
                )
            ids.append(token)
        return ids

    def check_streams(self, field: str, count: int) -> None:
        """Raise InvalidRequest for more streams than may decode at the same time."""
        if count > self.max_num_seqs:
            raise InvalidRequest(
                field, f"{count} streams are more than max_num_seqs {self.max_num_seqs}"
            )

    def bound(self, params: SamplingParams, prompt_tokens: int) -> SamplingParams:
        """The parameters with a `max_tokens` that is at most the room that the context leaves.

        It depends on nothing else: neither on the pool nor on the number of streams.

        Raises:
            InvalidRequest: the room is below `min_tokens`.
        """
        room = self.max_model_len - prompt_tokens
        self.check_room(params, room)
        most = room if params.max_tokens is None else min(room, params.max_tokens)
        return replace(params, max_tokens=most)

    def check_room(self, params: SamplingParams, room: int) -> None:
        """Raise InvalidRequest if `min_tokens` do not fit into a room of so many tokens."""
        if params.min_tokens > room:
            raise InvalidRequest(
                "min_tokens",
                f"{params.min_tokens} is more than the {room} tokens that a context of "
                f"{self.max_model_len} leaves behind the prompt",
            )

    def check_pages(self, pages: int, parts: str, pages_at: Callable[[int], int]) -> None:
        """Raise PoolTooSmall for a request that could not finish alone in an empty pool.

        Args:
            pages: that it needs.
            parts: of what they consist.
            pages_at: the pages that it needs if every `max_tokens` is at most so much.
        """
        if pages <= self.num_pages:
            return
        every = range(1, self.max_model_len + 1)
        fitting = bisect_left(every, True, key=lambda most: pages_at(most) > self.num_pages)
        advice = f"the largest max_tokens that fits is {fitting}"
        if not fitting:
            advice = "not even max_tokens=1 fits"
        needed = (pages + 0.5) * self.page_bytes / 2**30
        raise PoolTooSmall(
            "max_tokens",
            f"the request may need {pages} KV pages ({parts}), the engine has {self.num_pages} of "
            f"{PAGE_SIZE} tokens: {advice}; with kv_cache_gib={needed:.3g} all of it fits",
            needed,
        )
