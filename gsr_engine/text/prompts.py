"""Direct and refinement prompts as token ids, and the summaries that enter them.

Prompts are composed from pieces that are tokenised separately; decoded text is never tokenised
again. So the ids of header and problem are the same in every layout, and their KV can be shared.
The trainer builds its rows with the same functions.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.outputs import Completion
from gsr_engine.text.answers import find_answer


@dataclass(frozen=True, slots=True)
class DirectPrompt:
    """A direct prompt. Its first `problem_stop` tokens (header, problem) also open a linear one."""

    token_ids: list[int]
    problem_stop: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The part of a candidate that is shown to the refiner.

    `token_ids` are the candidate's tokens `[start, stop)` without special tokens.
    """

    token_ids: list[int]
    start: int
    stop: int

    @property
    def verbatim(self) -> bool:
        """Whether `token_ids` are exactly the range, because it holds no special tokens."""
        return len(self.token_ids) == self.stop - self.start


class Prompts:
    """Composes the prompts of one checkpoint, and reads its solutions.

    Attributes:
        tokenizer: the checkpoint's tokenizer.
        gsr: its templates, and how its solutions state their answers.

    Raises:
        InvalidRequest: on first use, if the checkpoint has no chat template.
    """

    def __init__(self, tokenizer: Tokenizer, gsr: GsrConfig) -> None:
        self.tokenizer = tokenizer
        self.gsr = gsr
        self._markup: dict[str, list[int]] = {}
        self._frames: dict[tuple[str, ...], list[list[int]]] = {}
        self._thinking = gsr.thinking

    def _piece(self, text: str) -> list[int]:
        if text not in self._markup:
            self._markup[text] = self.tokenizer.encode_markup(text)
        return self._markup[text]

    def _frame(self, *roles: str) -> list[list[int]]:
        if roles not in self._frames:
            self._frames[roles] = self.tokenizer.chat_frame(list(roles))
        return self._frames[roles]

    def problem(self, text: str) -> list[int]:
        """Ids of a problem's text; a special token spelled in it stays plain text."""
        return self.tokenizer.encode_text(text.strip())

    def direct(self, problem: list[int]) -> DirectPrompt:
        """The prompt that candidates continue."""
        header, footer = self._frame("user")
        ids = [*header, *problem, *self._piece(self.gsr.template.direct), *footer]
        return DirectPrompt(ids, len(header) + len(problem))

    def linear(self, problem: list[int], summaries: list[list[int]]) -> list[int]:
        """The whole refinement prompt of the linear layout."""
        ids = self.linear_opening(problem)
        for summary in summaries:
            ids += self.linear_candidate(summary)
        return ids + self.linear_closing(problem)

    def linear_opening(self, problem: list[int]) -> list[int]:
        """The linear prompt up to its first candidate."""
        header, _ = self._frame("user")
        return [*header, *problem, *self._piece(self.gsr.template.preamble)]

    def linear_candidate(self, summary: list[int]) -> list[int]:
        """The tokens that one candidate adds to a linear prompt."""
        return [*self._piece(self.gsr.template.separator), *summary]

    def linear_closing(self, problem: list[int]) -> list[int]:
        """The linear prompt from the end of its last candidate on."""
        _, footer = self._frame("user")
        return [*self._piece(self.gsr.template.linear), *self._again(problem), *footer]

    def branched_glue(self, problem: list[int]) -> list[int]:
        """The tokens after the candidates in the branched layout.

        They close the assistant's turn, state the instruction and open the next turn.
        """
        *_, close, footer = self._frame("user", "assistant", "user")
        instruction = self._piece(self.gsr.template.branched)
        return [*close, *instruction, *self._again(problem), *footer]

    def _again(self, problem: list[int]) -> list[int]:
        restate = self.gsr.template.restate
        return [] if restate is None else [*self._piece(restate), *problem]

    def branched_position(self, fork: int, glue: int, longest: int) -> int:
        """Position of the first glue token.

        With refine_position "fork", a glue longer than the direct prompt begins at 0 and ends
        behind the fork.

        Args:
            fork: position of the candidates' first token, which is the direct prompt's length.
            glue: number of glue tokens.
            longest: the position after the last token of the summary that reaches furthest.
        """
        return longest if self.gsr.refine_position == "after" else max(fork - glue, 0)

    def summary(self, token_ids: list[int], limit: int, whole: bool = False) -> Summary | None:
        """The summary of a candidate: the last `limit` tokens after its thinking.

        Args:
            token_ids: the candidate without its end token.
            limit: most tokens of the summary.
            whole: count the thinking as text, too.

        Returns:
            None if there is nothing to show: the text is empty, or the thinking never ended.
        """
        start = 0 if whole else self._thinking_stop(token_ids)
        if start is None:
            return None
        start = max(start, len(token_ids) - limit)
        shown = [t for t in token_ids[start:] if t not in self.tokenizer.special_ids]
        return Summary(shown, start, len(token_ids)) if shown else None

    def text_and_answer(self, solution: Completion) -> tuple[str, str | None]:
        """A solution's text without its thinking ("" if that never ended), and its answer."""
        content = solution.content_ids
        # If a stop string begins inside a token, the text also has the first part of that token.
        rest = solution.text[len(self.tokenizer.decode(content)) :]
        summary = self.summary(content, max(1, len(content)))
        text = self.tokenizer.decode(summary.token_ids) + rest if summary else ""
        return text, find_answer(text, self.gsr.answer_pattern)

    def _thinking_stop(self, token_ids: list[int]) -> int | None:
        """Index of the first token after the thinking; None if the thinking never ended."""
        if not self._thinking:
            return 0
        begin_tag, end_tag = self._thinking
        stop = self._last_stop(token_ids, end_tag)
        if stop is not None:
            return stop
        # The chat template itself may begin the thinking, or begin and end it.
        opening = self._frame("user")[1]
        begun = self._last_stop(opening, begin_tag) or 0
        thinks = begun > (self._last_stop(opening, end_tag) or 0)
        return None if thinks or self._last_stop(token_ids, begin_tag) is not None else 0

    def _last_stop(self, token_ids: list[int], tag: str) -> int | None:
        """Index of the token behind the last occurrence of a tag."""
        ids = self._piece(tag)
        if len(ids) == 1:
            found = [index for index, token in enumerate(token_ids) if token == ids[0]]
            return found[-1] + 1 if found else None
        if tag not in self.tokenizer.decode(token_ids):
            return None  # the usual case; decoding token by token below takes far longer
        # Inside a text, a tag may be cut into other tokens, and share a token with the text.
        pieces = self.tokenizer.pieces(token_ids)
        begin = "".join(pieces).rfind(tag)
        if begin < 0:
            return None
        stops = list(accumulate(map(len, pieces)))
        return bisect_left(stops, begin + len(tag)) + 1
