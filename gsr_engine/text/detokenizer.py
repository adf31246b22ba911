"""The text of a stream while it grows, at a bounded cost per token."""

from __future__ import annotations

from gsr_engine.checkpoint.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4
"""UTF-8 bytes, and so tokens, that one character takes at most."""
_LONGEST_WINDOW = 16


class Detokenizer:
    """Turns the tokens of one stream into final text: text that later tokens never change.

    A character may span several tokens. Until its last token arrives its bytes decode to U+FFFD,
    which is held back. Ids that `decode` skips (special tokens) are skipped here, too, also inside
    a character. All texts of `push` and the text of `flush` together equal
    `Tokenizer.decode` of all tokens. For byte-level BPE this holds for any tokens; for
    byte-fallback vocabularies it holds if the bytes are valid UTF-8 in the end.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # New tokens are decoded together with some tokens before them, because a decoder may treat
        # the beginning of a text differently (for example strip a space).
        self._window: list[int] = []
        self._settled = 0  # leading tokens of the window that ended on a complete character
        self._text = ""  # the decoded window
        self._given = 0  # leading characters of `_text` that `push` has returned

    @property
    def pending(self) -> str:
        """The text that is held back: that of an incomplete character."""
        return self._text[self._given :]

    def push(self, token_ids: list[int]) -> str:
        """Add the stream's next tokens; returns the text that became final."""
        return "".join([self._push(token) for token in token_ids])

    def flush(self) -> str:
        """Call it at the end of the stream: returns the text that was held back."""
        rest, self._given = self.pending, len(self._text)
        return rest

    def _push(self, token: int) -> str:
        if not self._tokenizer.spells(token):
            return ""
        self._window.append(token)
        text = self._text = self._tokenizer.decode(self._window)
        final = len(text.rstrip(_REPLACEMENT))
        if len(self._window) - self._settled >= _LONGEST_CHARACTER:
            # No character takes more tokens: U+FFFD before the last bytes stands for invalid bytes.
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
        """Shorten the window; the characters that are held back stay held back."""
        pending = len(self._text) - self._given
        self._window = window
        self._text = self._tokenizer.decode(window)
        self._given = max(0, len(self._text) - pending)
