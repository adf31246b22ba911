"""What is drawn: the settings that shape it, one sample of it, and who draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Protocol

from gsr_engine.params import SamplingParams
from gsr_engine.seeds import derive_seed
from train.generation.questions import Question
from train.samples import Sample


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """Everything that shapes a draw besides its prompt.

    Attributes:
        model: its name, which stands for its weights: other weights need another name, or another
            store.
        template: hash of the texts around problem and candidates.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        seed: of all samples.

    Raises:
        InvalidRequest: a value is out of range.
    """

    model: str
    template: str = ""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        self.sampling(1, self.seed)

    def sampling(self, n: int, seed: int) -> SamplingParams:
        """For n streams of one prompt."""
        return SamplingParams(
            n=n,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            seed=seed,
        )

    @cached_property
    def _text(self) -> str:
        return json.dumps(asdict(self))

    def key(self, prompt: Question) -> str:
        """Hash of everything that shapes the samples of a prompt, 16 hex digits."""
        text = json.dumps([self._text, prompt.id, prompt.problem, prompt.candidates])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def prompt_seed(self, prompt: Question) -> int:
        """Seed of a prompt's samples: whatever is drawn beside it, wherever, and however many.

        Sample i is completion i of `Engine.generate` with this seed; a server is asked for it with
        `derive_seed(prompt_seed, i)`.
        """
        digest = hashlib.sha256(prompt.id.encode()).digest()
        return derive_seed(self.seed, int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True, slots=True)
class Ask:
    """Samples that are wanted of a prompt, by number."""

    prompt: Question
    key: str
    samples: Sequence[int] = field(default=())

    def failed(self, sample: int, source: str, error: str) -> Sample:
        """One of them that failed for good."""
        return Sample(
            id=self.prompt.id,
            index=sample,
            key=self.key,
            finish_reason="error",
            source=source,
            error=error,
        )


class Drawer(Protocol):
    """Draws samples; what it draws depends on nothing but the ask and its settings."""

    @property
    def room(self) -> int:
        """Samples that should be submitted now, for it to be always busy."""

    def submit(self, ask: Ask) -> None:
        """Begin to draw."""

    def finished(self) -> list[Sample]:
        """Go on for a moment; returns what was finished, in any order."""
