"""What a checkpoint's prompts are made of, and how its solutions are read.

The prompts of one problem are in `problem_prompts.py`. The trainer builds its rows with the same
functions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from itertools import accumulate

from gsr_engine.checkpoint.chat_template import Message, Variables
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import Completion
from gsr_engine.text.answers import find_answer

FIXED_DAY = date(2024, 7, 26)
"""The date in prompts that have to be the same on every day: samples, rows, evaluations."""
_ASKED: list[Message] = [{"role": "user", "content": "?"}]
_TOLD: list[Message] = [*_ASKED, {"role": "assistant", "content": [0]}]


@dataclass(frozen=True, slots=True)
class Summary:
    """The part of a candidate that is shown to the refiner.

    `token_ids` are the candidate's tokens `[start, stop)` without control tokens.
    """

    token_ids: list[int]
    start: int
    stop: int

    @property
    def verbatim(self) -> bool:
        """Whether `token_ids` are exactly the range, because it holds no control tokens."""
        return len(self.token_ids) == self.stop - self.start


class Prompts:
    """The prompts of one checkpoint, and its solutions.

    Args:
        tokenizer: the checkpoint's tokenizer.
        gsr: its templates, and how its solutions state their answers.
        day: the date that a chat template reads, unless `gsr` fixes it.

    Attributes:
        tokenizer, gsr: as given.

    Raises:
        InvalidRequest: the chat template does not read a variable of `gsr`; on first use, if the
            checkpoint has no chat template.
    """

    def __init__(self, tokenizer: Tokenizer, gsr: GsrConfig, day: date = FIXED_DAY) -> None:
        self.tokenizer = tokenizer
        self.gsr = gsr
        tokenizer.check_variables(gsr.template.chat_template_kwargs)
        fixed = gsr.template.date
        self._day = date.fromisoformat(fixed) if fixed else day
        self._templated: dict[str, Prompts] = {}  # what they cached serves the next request, too

    def varied(self, variables: Variables) -> Prompts:
        """The same prompts with some more variables for the chat template.

        Raises:
            InvalidRequest: the template does not read one of them.
        """
        if not variables:
            return self
        every = {**self.gsr.template.chat_template_kwargs, **variables}
        template = replace(self.gsr.template, chat_template_kwargs=every)
        return Prompts(self.tokenizer, replace(self.gsr, template=template), self._day)

    def templated(self, name: str | None) -> Prompts:
        """The same with the texts of a built-in template; None leaves them.

        Raises:
            InvalidRequest: there is no such template.
        """
        if name is None:
            return self
        if name not in self._templated:
            gsr = self.gsr.with_template(name)
            self._templated[name] = Prompts(self.tokenizer, gsr, self._day)
        return self._templated[name]

    def chat_parts(self, messages: Sequence[Message]) -> tuple[list[list[int]], list[int]]:
        """`Tokenizer.chat_parts` with the date and the variables of these prompts."""
        return self.tokenizer.chat_parts(
            messages, self.gsr.template.chat_template_kwargs, self._day
        )

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation without slots, with the opening of the assistant's turn."""
        return self.tokenizer.chat(messages, self.gsr.template.chat_template_kwargs, self._day)

    def solution(self, text: str) -> list[int]:
        """Ids of a solution's text, as the model would have written it behind a direct prompt."""
        opening, space = self._opening
        return self.tokenizer.encode_solution(space + text, opening)

    @cached_property
    def _opening(self) -> tuple[str, str]:
        """The end of a prompt, and the white space that the template writes before a solution."""
        variables = self.gsr.template.chat_template_kwargs
        opening = self.tokenizer.rendered(_ASKED, variables, self._day)
        try:
            before = self.tokenizer.rendered(_TOLD, variables, self._day)
        except InvalidRequest:  # a template for one turn only
            return opening, ""
        space = before.removeprefix(opening)
        return opening, space if before.startswith(opening) and space.isspace() else ""

    @cached_property
    def end_id(self) -> int | None:
        """The end token that closes a solution: the template's, or else the tokenizer's own."""
        try:
            behind = self.chat_parts(_TOLD)[0][1:2]
        except InvalidRequest:  # a template for one turn only
            behind = []
        stops = self.tokenizer.stop_ids
        ends = (token for part in behind for token in part if token in stops)
        return next(ends, self.tokenizer.end_id)

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
        shown = [t for t in token_ids[start:] if t not in self.tokenizer.control_ids]
        return Summary(shown, start, len(token_ids)) if shown else None

    def text_and_answer(self, solution: Completion) -> tuple[str, str | None]:
        """A solution's text without its thinking ("" if that never ended), and its answer.

        There is no answer if it states none, or if the template asks for none in a fixed form.
        """
        content = solution.content_ids
        # If a stop string begins inside a token, the text also has the first part of that token.
        rest = solution.text[len(self.tokenizer.decode(content)) :]
        summary = self.summary(content, max(1, len(content)))
        text = self.tokenizer.decode(summary.token_ids) + rest if summary else ""
        asked = self.gsr.template.answer_form
        return text, find_answer(text, self.gsr.answer_pattern) if asked else None

    def _thinking_stop(self, token_ids: list[int]) -> int | None:
        """Index of the first token after the thinking; None if the thinking never ended."""
        tags = self.tokenizer.thinking
        if tags is None:
            return 0
        begin_tag, end_tag = tags
        if not self.tokenizer.knows_thinking and not self._opens(token_ids, begin_tag):
            return 0  # the model merely wrote about such a tag
        stop = self._last_stop(token_ids, end_tag)
        if stop is not None:
            return stop
        thinks = self.begins_thinking or self._last_stop(token_ids, begin_tag) is not None
        return None if thinks else 0

    @cached_property
    def begins_thinking(self) -> bool:
        """Whether the chat template itself begins the thinking; it may also begin and end it."""
        if self.tokenizer.thinking is None:
            return False
        begin_tag, end_tag = self.tokenizer.thinking
        opening = self.chat_parts([{"role": "user", "content": [0]}])[0][-1]
        begun = self._last_stop(opening, begin_tag) or 0
        return begun > (self._last_stop(opening, end_tag) or 0)

    def _opens(self, token_ids: list[int], tag: str) -> bool:
        """Whether a text begins with a tag."""
        # White space before it may be many tokens, each of at least a character.
        return self.tokenizer.decode(token_ids[: 2 * len(tag)]).lstrip().startswith(tag)

    def _last_stop(self, token_ids: list[int], tag: str) -> int | None:
        """Index of the token behind the last occurrence of a tag."""
        ids = self._tag_ids[tag]
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

    @cached_property
    def _tag_ids(self) -> dict[str, list[int]]:
        return {tag: self.tokenizer.encode_markup(tag) for tag in self.tokenizer.thinking or ()}
