"""What ends a stream: end tokens, and strings in its text."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.params import SamplingParams
from gsr_engine.text.detokenizer import Detokenizer


class StopMatcher:
    """Looks for stop strings in the text of one stream, wherever tokens cut them.

    The one that is complete first counts, the longest among those that end together, so that the
    result is a matter of the text alone and not of its tokens.

    Attributes:
        text: what precedes the stop string, to the character; None until one is found.
        content_length: leading tokens that hold nothing of the stop string nor of a character
            that one of its tokens completes; their text is `text`, or the beginning of it where a
            token holds both.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...]) -> None:
        self.text: str | None = None
        self.content_length = 0
        self._strings = strings
        self._longest = max(map(len, strings))
        self._detokenizer = Detokenizer(tokenizer)
        self._pieces: list[str] = []
        self._tail = ""  # the last characters, of which a stop string may be the continuation
        self._length = 0  # characters so far
        self._ends: list[int] = []  # characters after each token; -1 inside of a character

    def push(self, token: int, armed: bool) -> bool:
        """Take the stream's next token; whether it completed a stop string, if `armed` to look."""
        new = self._detokenizer.push([token])
        self._pieces.append(new)
        begin = self._find(new) if armed and new else None
        self._length += len(new)
        self._ends.append(-1 if self._detokenizer.pending else self._length)
        self._tail = (self._tail + new)[-self._longest :]
        if begin is None:
            return False
        self.text = "".join(self._pieces)[:begin]
        length = len(self._ends)
        while length and not 0 <= self._ends[length - 1] <= begin:
            length -= 1
        self.content_length = length
        return True

    def _find(self, new: str) -> int | None:
        """The character at which a stop string begins that ends in the new text."""
        window, old = self._tail + new, len(self._tail)
        found = []
        for string in self._strings:
            begin = window.find(string, max(0, old - len(string) + 1))
            if begin >= 0:
                found.append((begin + len(string), begin))
        return self._length - old + min(found)[1] if found else None


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends the streams of a request.

    `strings` are looked for in the text by a matcher per stream; most requests have none.
    """

    token_ids: frozenset[int]
    strings: tuple[str, ...]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, params: SamplingParams, tokenizer: Tokenizer) -> StopRule:
        """The rule of some parameters: their own ids, and the checkpoint's unless they say not."""
        own = frozenset[int]() if params.ignore_eos else tokenizer.stop_ids
        return cls(own | frozenset(params.stop_token_ids), tuple(params.stop), tokenizer)

    @property
    def hold_back(self) -> int:
        """Characters at the end of a running stream's text that a stop string may still remove."""
        return max(map(len, self.strings), default=1) - 1

    def matcher(self) -> StopMatcher | None:
        """A matcher for one stream; None where there is nothing to look for."""
        return StopMatcher(self.tokenizer, self.strings) if self.strings else None
