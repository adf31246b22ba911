"""The student as the builder needs it: tokenizer, prompts, and the ids of texts."""

from __future__ import annotations

from collections import Counter
from functools import cache, cached_property
from pathlib import Path

from gsr_engine.checkpoint.digest import tokenizer_digest
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.errors import InvalidRequest
from gsr_engine.text.prompts import Prompts
from train.samples import Sample


class Student:
    """Tokenizer and prompts of the checkpoint that will be trained; weights are not needed.

    Args:
        folder: the checkpoint's.
        gsr: its prompts; None takes the folder's `gsr.json`.

    Attributes:
        encoded: candidates whose text was encoded, because they hold no ids of this tokenizer, by
            the reason.

    Raises:
        CheckpointError: there is no usable tokenizer, or `gsr.json` is unreadable.
        InvalidRequest: the tokenizer names no end token, or has no chat template.
    """

    def __init__(self, folder: Path, gsr: GsrConfig | None = None) -> None:
        self.folder = folder
        self.gsr = gsr or GsrConfig.from_folder(folder)
        self.tokenizer = Tokenizer.from_folder(folder, self.gsr.thinking)
        self.prompts = Prompts(self.tokenizer, self.gsr)
        end = self.prompts.end_id
        if end is None:
            raise InvalidRequest("model", f"the tokenizer of {folder} names no end token")
        self.encoded: Counter[str] = Counter()
        self._end: int = end

    @cached_property
    def tokenizer_hash(self) -> str:
        """The digest of its tokenizer: ids mean the same where it is the same."""
        return tokenizer_digest(self.folder)

    def summary(self, sample: Sample, limit: int) -> list[int] | None:
        """Ids of the part of a candidate that is shown, at most `limit`; None if it is empty.

        A candidate's own ids are taken if they are of this tokenizer. Otherwise its text is
        encoded, and `encoded` counts it.
        """
        ids = sample.token_ids
        if ids is None or sample.tokenizer != self.tokenizer_hash:
            self.encoded[_why_encoded(sample)] += 1
            ids = self.prompts.solution(sample.text)
        elif ids and ids[-1] in self.tokenizer.stop_ids:
            ids = ids[:-1]
        summary = self.prompts.summary(ids, limit)
        return summary.token_ids if summary else None

    def target(self, text: str) -> list[int]:
        """Ids of a text to learn, with the end token.

        Thinking stays. Its opening tag is added or removed, so that it comes once after the
        student's prompt: some templates open the thinking, so some texts lack the tag.
        """
        thinking = self.tokenizer.thinking
        if thinking and thinking[1] in text:
            begin, _ = thinking
            text = text.lstrip().removeprefix(begin).lstrip("\n")
            if not self.prompts.begins_thinking:
                text = f"{begin}\n{text}"
        return [*self.prompts.solution(text), self._end]


def _why_encoded(sample: Sample) -> str:
    if sample.token_ids is None:
        return "it came as text"
    return "another tokenizer" if sample.tokenizer else "no tokenizer is named"


load_student = cache(Student)
"""A student, loaded once in each process."""
