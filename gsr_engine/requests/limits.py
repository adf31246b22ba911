"""The limits of an engine that every request is checked against, once, at submission."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gsr_engine.errors import InvalidRequest, shown
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
    """

    max_model_len: int
    vocab_size: int
    num_pages: int
    max_num_seqs: int

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

    def check_prompt(self, field: str, token_ids: list[int]) -> None:
        """Raise InvalidRequest for a prompt that is empty, too long, or has unknown token ids.

        It is too long if it leaves no room for one generated token.
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
        self.check_tokens(field, token_ids)

    def check_candidate(self, field: str, token_ids: list[int]) -> None:
        """Raise InvalidRequest for a given candidate that is too long, or has unknown token ids."""
        most = CANDIDATE_CONTEXTS * self.max_model_len
        if len(token_ids) > most:
            raise InvalidRequest(
                field,
                f"one has {len(token_ids)} tokens, at most {most} are read ({CANDIDATE_CONTEXTS} "
                f"times max_model_len {self.max_model_len})",
            )
        self.check_tokens(field, token_ids)

    def check_tokens(self, field: str, token_ids: list[int]) -> None:
        """Raise InvalidRequest for a token id outside the vocabulary."""
        for token in token_ids:
            if not isinstance(token, int) or not 0 <= token < self.vocab_size:
                raise InvalidRequest(
                    field, f"token id {shown(token)} is outside 0..{self.vocab_size - 1}"
                )

    def check_streams(self, field: str, count: int) -> None:
        """Raise InvalidRequest for more streams than may decode at the same time."""
        if count > self.max_num_seqs:
            raise InvalidRequest(
                field, f"{count} streams are more than max_num_seqs {self.max_num_seqs}"
            )

    def bound(self, params: SamplingParams, prompt_tokens: int, free_pages: int) -> SamplingParams:
        """The parameters with a `max_tokens` that is at most the room that the context leaves.

        If the caller gave none, it is also at most the number of tokens that `free_pages`, the
        pages for one stream, hold.
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
