"""Text of a stream, piece by piece."""

from __future__ import annotations

from gsr_engine.tokenizer import Tokenizer


class Detokenizer:
    """Decodes one stream as it grows: the pieces together are the text of all its tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A token's text depends on those before it, so a few of them that are out are kept.
        self._token_ids: list[int] = []
        self._num_out = 0

    def push(self, token_ids: list[int]) -> str:
        """The text that these tokens complete; a character that is not whole yet is held back."""
        self._token_ids += token_ids
        text = self._rest()
        if not text or text.endswith("\ufffd"):
            return ""
        self._token_ids = self._token_ids[self._num_out :]
        self._num_out = len(self._token_ids)
        return text

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        text = self._rest()
        self._num_out = len(self._token_ids)
        return text

    def _rest(self) -> str:
        out = self._tokenizer.decode(self._token_ids[: self._num_out])
        return self._tokenizer.decode(self._token_ids)[len(out) :]
