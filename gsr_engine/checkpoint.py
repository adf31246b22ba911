"""What the refinement program needs of a loaded checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.answers import find_answer
from gsr_engine.gsr_config import GsrConfig
from gsr_engine.outputs import Completion
from gsr_engine.prompts import Prompts
from gsr_engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Its tokenizer, its prompts, and how its solutions are read."""

    tokenizer: Tokenizer
    prompts: Prompts
    gsr: GsrConfig

    def text_and_answer(self, solution: Completion) -> tuple[str, str | None]:
        """A solution's text without its thinking ("" if that has no end), and its answer."""
        content = solution.content_ids
        # The text may go on into a token that a stop string cuts in two.
        rest = solution.text[len(self.tokenizer.decode(content)) :]
        summary = self.prompts.summary(content, max(1, len(content)))
        text = self.tokenizer.decode(summary.token_ids) + rest if summary else ""
        return text, find_answer(text, self.gsr.answer_pattern)
