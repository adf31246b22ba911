"""The text of a stream while it grows, at a bounded cost per token."""

from __future__ import annotations

from gsr_engine.checkpoint.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4
"""UTF-8 bytes, and so tokens, that one character takes at most."""
_LONGEST_WINDOW = 16


class Detokenizer:
    """Turns the tokens of one stream into text that is final: never taken back nor changed.

    A character may span tokens; until its last one its bytes decode to U+FFFD, which is held back.
    What `push` gave and `flush` adds is `Tokenizer.decode` of all the tokens, for byte-level BPE on
    any tokens, for byte-fallback vocabularies where the bytes are valid UTF-8 at last.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The newest tokens are decoded together with the ones before them, because a decoder may
        # treat the beginning of a text in a way of its own (it strips a space, say).
        self._window: list[int] = []
        self._settled = 0  # tokens of the window whose text was whole when the next one came
        self._text = ""  # of the window
        self._given = 0  # characters of it that were given out

    @property
    def pending(self) -> str:
        """What is held back: the text of a character that is not complete."""
        return self._text[self._given :]

    def push(self, token_ids: list[int]) -> str:
        """Take the stream's next tokens; the text that became final."""
        return "".join([self._push(token) for token in token_ids])

    def flush(self) -> str:
        """The stream has ended: what was held back."""
        rest, self._given = self.pending, len(self._text)
        return rest

    def _push(self, token: int) -> str:
        self._window.append(token)
        text = self._text = self._tokenizer.decode(self._window)
        final = len(text.rstrip(_REPLACEMENT))
        if len(self._window) - self._settled >= _LONGEST_CHARACTER:
            # No character is so long: what precedes the last few bytes is invalid for good.
            final = max(final, len(text) - _LONGEST_CHARACTER + 1)
        new, self._given = text[self._given : final], max(self._given, final)
        if new and final == len(text):
            self._keep(self._window[self._settled :])
            self._settled = len(self._window)
        elif len(self._window) > _LONGEST_WINDOW:
            self._keep(self._window[-_LONGEST_WINDOW // 2 :])
            self._settled = 0
        return new

    def _keep(self, window: list[int]) -> None:
        pending = len(self._text) - self._given
        self._window = window
        self._text = self._tokenizer.decode(window)
        self._given = max(0, len(self._text) - pending)
