"""The conditions that end a stream: end tokens, strings in its text, and loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.outputs import StopReason
from gsr_engine.params import SamplingParams
from gsr_engine.repetition import RepetitionDetectionParams, RepetitionMatcher
from gsr_engine.text.detokenizer import Detokenizer


class StopMatcher:
    """Looks for stop strings in the text of one stream, wherever tokens cut them.

    The stop string that is completed first wins. If several end at the same character, the longest
    wins. The result depends on the text only, not on how it was tokenised.

    Attributes:
        text: the text before the stop string, to the character; None until one is found.
        found: that stop string; None until then.
        content_length: number of leading tokens that contain no part of the stop string. A token
            with both kept text and the start of the stop string is not counted, so `text` may be
            longer than the text of these tokens. If the tokens before the stop string end inside a
            character, the tokens of that character are not counted either.
    """

    def __init__(self, tokenizer: Tokenizer, strings: tuple[str, ...]) -> None:
        self.text: str | None = None
        self.found: str | None = None
        self.content_length = 0
        self._strings = strings
        self._longest = max(map(len, strings))
        self._detokenizer = Detokenizer(tokenizer)
        self._pieces: list[str] = []  # the text that each token added
        self._tail = ""  # the last `_longest` characters: a stop string may begin in them
        self._length = 0  # characters so far
        self._ends: list[int] = []  # for each token the characters up to it; -1 inside a character

    def push(self, token: int, armed: bool) -> bool:
        """Add the stream's next token; returns whether it completed a stop string.

        Unless `armed` it only reads the text, and a stop string that ends in it never counts.
        """
        new = self._detokenizer.push([token])
        self._pieces.append(new)
        found = self._find(new) if armed and new else None
        self._length += len(new)
        self._ends.append(-1 if self._detokenizer.pending else self._length)
        self._tail = (self._tail + new)[-self._longest :]
        if found is None:
            return False
        begin, self.found = found
        self.text = "".join(self._pieces)[:begin]
        # Drop tokens from the end until one ends before the stop string, and not in a character.
        length = len(self._ends)
        while length and not 0 <= self._ends[length - 1] <= begin:
            length -= 1
        self.content_length = length
        return True

    def _find(self, new: str) -> tuple[int, str] | None:
        """The stop string that ends in the new text, and the index of its first character."""
        window, old = self._tail + new, len(self._tail)
        found = []
        for string in self._strings:
            # A string that begins earlier would have ended in the old text.
            begin = window.find(string, max(0, old - len(string) + 1))
            if begin >= 0:
                found.append((begin + len(string), begin, string))
        if not found:
            return None
        # The least end first, then the least begin, which is the longest string.
        _, begin, string = min(found)
        return self._length - old + begin, string


@dataclass(frozen=True, slots=True)
class StopRule:
    """The end tokens and stop strings of a request, and what counts as a loop.

    Each stream has its own matchers for `strings` and `loops`; most requests have neither.

    Attributes:
        token_ids: the ids that end a stream, each with what `Completion.stop_reason` says of it.
        strings: the stop strings that are looked for in the text.
        tokenizer: makes that text.
        loops: what counts as a loop; None if loops do not end a stream.
    """

    token_ids: Mapping[int, StopReason]
    strings: tuple[str, ...]
    tokenizer: Tokenizer
    loops: RepetitionDetectionParams | None = None

    @classmethod
    def of(cls, params: SamplingParams, tokenizer: Tokenizer) -> StopRule:
        """The rule of some parameters: their own ids, and the checkpoint's unless `ignore_eos`.

        A stop string that names a special token is the id of that token.

        Raises:
            InvalidRequest: a stop string holds a special token among other text.
        """
        named = {text: tokenizer.stop_token(text) for text in params.stop}
        strings = tuple(text for text, token in named.items() if token is None)
        every: dict[int, StopReason] = {
            token: text for text, token in named.items() if token is not None
        }
        every |= {token: token for token in params.stop_token_ids}
        if not params.ignore_eos:
            every |= dict.fromkeys(tokenizer.stop_ids)
        return cls(every, strings, tokenizer, params.repetition_detection)

    @property
    def hold_back(self) -> int:
        """Characters at the end of a running stream's text that a stop string may still remove."""
        return max(map(len, self.strings), default=1) - 1

    @property
    def reads_text(self) -> bool:
        """Whether streams need a matcher; most requests have no stop strings."""
        return bool(self.strings)

    def matcher(self) -> StopMatcher:
        """A matcher for one stream, if the rule reads text."""
        return StopMatcher(self.tokenizer, self.strings)

    def loop_matcher(self) -> RepetitionMatcher | None:
        """A matcher for the loops of one stream; None if loops do not end it."""
        if self.loops is None or not self.loops.max_pattern_size:
            return None
        return RepetitionMatcher(self.loops)
