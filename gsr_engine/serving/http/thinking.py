"""Splits the text of an answer into its thinking and what follows, while it grows."""

from __future__ import annotations

from gsr_engine.checkpoint.chat_template import Variables
from gsr_engine.serving.async_engine import AsyncEngine
from gsr_engine.text.prompts import Prompts


class Thinking:
    """How the answers of one request think, and how many of their tokens do.

    Args:
        prompts: the checkpoint's, with the variables of the request.
    """

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._tags = prompts.tokenizer.thinking
        self._begun = self._tags is not None and prompts.begins_thinking

    @classmethod
    def of(cls, engine: AsyncEngine, variables: Variables) -> Thinking:
        """That of a request with these variables of the chat template; not for the event loop.

        Raises:
            InvalidRequest: the template does not read a variable.
        """
        return cls(engine.maker.prompts.varied(variables))

    def splitter(self) -> ThinkingSplitter:
        """A splitter for one answer."""
        return ThinkingSplitter(self._tags, self._begun)

    def count(self, content_ids: list[int]) -> int:
        """How many tokens of an answer are thinking."""
        if self._tags is None or not content_ids:
            return 0
        summary = self._prompts.summary(content_ids, len(content_ids))
        return len(content_ids) if summary is None else summary.start


class ThinkingSplitter:
    """Splits one text that comes in pieces; tags are left out.

    A text thinks if the template has begun the thinking, or if its first characters but white space
    are the opening tag. It thinks up to the first closing tag.
    """

    def __init__(self, tags: tuple[str, str] | None, begun: bool) -> None:
        self._opening, self._closing = tags or ("", "")
        self._state = "thinking" if begun else "beginning" if tags else "content"
        self._held = ""

    def push(self, text: str, last: bool = False) -> tuple[str, str]:
        """The new thinking and the new content; characters that may be of a tag are kept back.

        `last` gives them up, because nothing follows.
        """
        if self._state == "content":
            return "", text
        self._held += text
        if self._state == "beginning" and not self._begins(last):
            return "", self._take(len(self._held)) if self._state == "content" else ""
        stop = self._held.find(self._closing)
        if stop < 0:
            kept = 0 if last else _overlap(self._held, self._closing)
            return self._take(len(self._held) - kept), ""
        thought = self._take(stop)
        self._state = "content"
        return thought, self._take(len(self._held)).removeprefix(self._closing)

    def _begins(self, last: bool) -> bool:
        """Whether the text has begun to think; it becomes content once it has not."""
        seen = self._held.lstrip()
        if seen.startswith(self._opening):
            self._held, self._state = seen.removeprefix(self._opening), "thinking"
            return True
        if last or not self._opening.startswith(seen):
            self._state = "content"
        return False

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken


def _overlap(text: str, tag: str) -> int:
    """How many of the last characters of a text may be the beginning of a tag."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
