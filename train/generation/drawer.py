"""Drawing: settings that shape a sample, a request for samples, the interface of drawers."""

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
        tokenizer: digest of the engine's tokenizer; "" for a server, which sends text.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        seed: of all samples.

    Raises:
        InvalidRequest: a value is out of range.
    """

    model: str
    template: str = ""
    tokenizer: str = ""
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
        """Seed of a prompt's samples.

        It depends on the prompt alone, not on the place, the company or the number of samples.
        Sample i is completion i of `Engine.generate` with this seed. A server gets
        `derive_seed(prompt_seed, i)` for it.
        """
        digest = hashlib.sha256(prompt.id.encode()).digest()
        return derive_seed(self.seed, int.from_bytes(digest[:8], "big"))


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for samples of a prompt, by index."""

    prompt: Question
    key: str
    samples: Sequence[int] = field(default=())

    def failed(self, sample: int, source: str, error: str) -> Sample:
        """The record of a sample that failed for good."""
        return Sample(
            id=self.prompt.id,
            index=sample,
            key=self.key,
            finish_reason="error",
            source=source,
            error=error,
        )


class Drawer(Protocol):
    """Draws samples. A sample depends on the ask and on the drawer's settings alone."""

    @property
    def room(self) -> int:
        """Number of samples to submit now, so that the drawer is always busy."""

    @property
    def num_running_tokens(self) -> int:
        """Tokens so far of samples that are not finished; 0 if that cannot be known."""

    def submit(self, ask: Ask) -> None:
        """Begin to draw."""

    def finished(self) -> list[Sample]:
        """Work for a moment; returns the samples that were finished, in any order."""
