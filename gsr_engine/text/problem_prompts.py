"""The prompts of one problem as token ids: direct, linear and branched.

Each prompt is a conversation, and the chat template runs over it as a whole. Candidates have a slot
each in it, into which their own ids go: decoded text is never tokenised again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from typing import Any

from gsr_engine.checkpoint.chat_template import Content, Message
from gsr_engine.checkpoint.tokenizer import check_messages
from gsr_engine.errors import InvalidRequest, shown
from gsr_engine.text.prompts import Prompts

Problem = str | Sequence[Message]
"""A problem: its text, or a conversation whose last message, the user's, states it."""


class ProblemPrompts:
    """The prompts of one problem.

    A prompt is composed when it is first asked for.

    Args:
        prompts: those of the checkpoint.
        problem: the problem; white space around a text does not count.

    Attributes:
        direct: the prompt that candidates continue.

    Raises:
        InvalidRequest: the problem is empty or no problem, or the chat template refuses it.
    """

    def __init__(self, prompts: Prompts, problem: Problem) -> None:
        self._prompts = prompts
        self._template = prompts.gsr.template
        if isinstance(problem, str):
            problem = [{"role": "user", "content": problem.strip()}]
        contents = check_messages("problem", problem)
        *self._before, self._last = problem
        if self._last["role"] != "user":
            raise InvalidRequest(
                "problem", f"must end with the user's message, got {shown(self._last['role'])}"
            )
        self._text = contents[-1]
        if not self._text.strip():
            raise InvalidRequest("problem", "is empty")
        self._rendered: dict[tuple[int, bool], tuple[list[list[int]], list[int]]] = {}
        self.direct = prompts.chat(self._asked(self._text + self._template.direct))

    def _asked(self, content: Content) -> list[Message]:
        return [*self._before, self._says(content)]

    def _says(self, content: Content) -> Mapping[str, Any]:
        return {**self._last, "content": content}

    def problem_stop(self, k: int) -> int:
        """How many tokens the direct and the linear prompt of k candidates begin with in common.

        These are computed once: header and problem, or the header alone if the template writes
        something before the problem.
        """
        opening = self.opening(k)
        pairs = zip(self.direct, opening, strict=False)
        # The last token of a prompt computes its answer, so it is never shared.
        most = min(len(self.direct), len(opening)) - 1
        return min(most, len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))))

    def linear(self, summaries: Sequence[list[int]], texts_of: int | None = None) -> list[int]:
        """The whole refinement prompt of the linear layout.

        Args:
            summaries: of the candidates, in the order to show.
            texts_of: for how many candidates the texts are, if not for these: a prompt that is
                written while candidates finish begins before their number is known.
        """
        k = len(summaries)
        parts, slots = self._linear_parts(k, self._alone(texts_of or k))
        token_ids = list(parts[0])
        for slot, part in zip(slots, parts[1:], strict=True):
            token_ids += summaries[slot]
            token_ids += part
        return token_ids

    def opening(self, k: int) -> list[int]:
        """The linear prompt of k candidates up to its first candidate."""
        return self._linear_parts(k, self._alone(k))[0][0]

    def between(self, number: int, k: int) -> list[int]:
        """The tokens between a candidate, counted from 1, and the next one in a prompt of k."""
        return self._linear_parts(k, alone=False)[0][number]

    def _alone(self, k: int) -> bool:
        return k == 1 and bool(self._template.alone)

    def _linear_parts(self, k: int, alone: bool) -> tuple[list[list[int]], list[int]]:
        """The parts around the candidates, and which candidate follows each but the last."""
        if not alone and k != 2 and not self._template.numbered:
            (opening, between, *closing), slots = self._linear_parts(2, alone)
            if slots == [0, 1]:  # nearly always: then the others are like these two
                return [opening, *[between] * (k - 1), *closing], list(range(k))
        if (k, alone) not in self._rendered:
            self._rendered[k, alone] = self._render_linear(k, alone)
        return self._rendered[k, alone]

    def _render_linear(self, k: int, alone: bool) -> tuple[list[list[int]], list[int]]:
        texts = self._template.shows(1 if alone else 2)
        content: list[str | int] = [texts.opening + self._text + texts.preamble]
        for slot in range(k):
            content += [texts.before(slot + 1), slot]
        parts, slots = self._prompts.chat_parts(self._asked([*content, texts.linear + self._again]))
        # A template may write the whole content again, but not drop a candidate.
        if slots[:k] != list(range(k)):
            raise InvalidRequest("problem", "the chat template drops or reorders candidates")
        return parts, slots

    @property
    def _again(self) -> str:
        restate = self._template.restate
        return "" if restate is None else restate + self._text

    @cached_property
    def branched_glue(self) -> list[int]:
        """The tokens after the candidates in the branched layout.

        They close the assistant's turn, state the instruction and open the next turn.

        Raises:
            InvalidRequest: the template has no text for this layout.
        """
        text = self._template.branched_text()
        candidate = {"role": "assistant", "content": [0]}
        instruction = self._says(text + self._again)
        asked = self._asked(self._text + self._template.direct)
        parts, slots = self._prompts.chat_parts([*asked, candidate, instruction])
        if slots != [0]:
            raise InvalidRequest(
                "layout", "the chat template drops or repeats the candidates of a branched prompt"
            )
        return parts[1]

    def branched_position(self, fork: int, longest: int) -> int:
        """Position of the first glue token.

        With refine_position "fork", a glue longer than the direct prompt begins at 0 and ends
        behind the fork.

        Args:
            fork: position of the candidates' first token, which is the direct prompt's length.
            longest: the position after the last token of the summary that reaches furthest.
        """
        if self._prompts.gsr.refine_position == "after":
            return longest
        return max(fork - len(self.branched_glue), 0)
