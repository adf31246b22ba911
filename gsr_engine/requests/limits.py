"""What one request may take of an engine: checked once, at submission."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gsr_engine.errors import InvalidRequest
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Limits:
    """Longest context in tokens, size of the vocabulary, pages of the pool, streams at a time."""

    max_model_len: int
    vocab_size: int
    num_pages: int
    max_num_seqs: int

    def check_prompt(self, field: str, token_ids: list[int]) -> None:
        """Raise InvalidRequest unless a prompt has tokens, all known, and leaves room for one."""
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
        self.check_tokens(field, token_ids)

    def check_tokens(self, field: str, token_ids: list[int]) -> None:
        """Raise InvalidRequest for a token id that the model does not know."""
        for token in token_ids:
            if not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    field, f"token id {token!r} is outside 0..{self.vocab_size - 1}"
                )

    def check_streams(self, field: str, count: int) -> None:
        """Raise InvalidRequest for more streams than decode at a time."""
        if count > self.max_num_seqs:
            raise InvalidRequest(
                field, f"{count} streams are more than max_num_seqs {self.max_num_seqs}"
            )

    def bound(self, params: SamplingParams, prompt_tokens: int, free_pages: int) -> SamplingParams:
        """The parameters with `max_tokens` given, and no more than the context leaves.

        Where the caller gave none, it is also no more than `free_pages` of each stream hold.
        """
        room = self.max_model_len - prompt_tokens
        if params.max_tokens is None:
            return replace(params, max_tokens=max(1, min(room, free_pages * PAGE_SIZE)))
        return replace(params, max_tokens=min(room, params.max_tokens))

    def check_pages(self, pages_needed: int, parts: str) -> None:
        """Raise InvalidRequest for a request that could not finish alone in an empty pool."""
        if pages_needed > self.num_pages:
            raise InvalidRequest(
                "max_tokens",
                f"the request may need {pages_needed} KV pages ({parts}), the engine has "
                f"{self.num_pages} of {PAGE_SIZE} tokens: lower max_tokens or raise kv_cache_gib",
            )
