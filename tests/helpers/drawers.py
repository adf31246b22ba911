"""Drawers without a model: what they draw follows from the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.seeds import derive_seed
from train.generation.drawer import Ask, DrawConfig
from train.generation.questions import Question
from train.generation.store import Store
from train.generation.worker import Tally, generate
from train.samples import Sample

CONFIG = DrawConfig(model="stub", max_tokens=8, seed=3)
PROMPTS = [Question(f"p{i}", f"{i} + {i}", str(2 * i)) for i in range(7)]


class StubDrawer:
    """Finishes a few samples at a time, the newest first.

    `lifetime`: samples until it is interrupted; `failing`: (id, sample) that fail; `voice` changes
    what it draws, as another GPU may.
    """

    def __init__(
        self,
        config: DrawConfig = CONFIG,
        lifetime: float = float("inf"),
        failing: Sequence[tuple[str, int]] = (),
        voice: str = "",
    ) -> None:
        self._config = config
        self._lifetime = lifetime
        self._failing = failing
        self._voice = voice
        self._asked: deque[tuple[Ask, int]] = deque()
        self.submitted: list[tuple[str, int]] = []
        self.most_in_flight = 0

    @property
    def room(self) -> int:
        return 6 - len(self._asked)

    @property
    def num_running_tokens(self) -> int:
        return 0

    def submit(self, ask: Ask) -> None:
        self._asked += [(ask, sample) for sample in ask.samples]
        self.submitted += [(ask.prompt.id, sample) for sample in ask.samples]
        self.most_in_flight = max(self.most_in_flight, len(self._asked))

    def finished(self) -> list[Sample]:
        drawn = []
        for _ in range(min(2, len(self._asked))):
            if self._lifetime <= 0:
                raise KeyboardInterrupt
            self._lifetime -= 1
            drawn.append(self._draw(*self._asked.pop()))
        return drawn

    def _draw(self, ask: Ask, sample: int) -> Sample:
        if (ask.prompt.id, sample) in self._failing:
            return ask.failed(sample, "stub", "too bad")
        seed = derive_seed(self._config.prompt_seed(ask.prompt), sample)
        return Sample(
            id=ask.prompt.id,
            index=sample,
            key=ask.key,
            text=f"{self._voice}é {seed}",
            token_ids=[seed % 97],
            finish_reason="stop",
            num_tokens=1 + seed % 8,
            logprob=-1 / (1 + seed % 7),
            answer=str(seed % 5),
            source="stub",
        )


def open_store(folder: Path, n: int = 3, config: DrawConfig = CONFIG, **options: object) -> Store:
    return Store(folder, config, PROMPTS, n, shard_size=3, **options)  # type: ignore[arg-type]


def draw(folder: Path, n: int = 3, drawer: StubDrawer | None = None, **options: object) -> Tally:
    """Fill a store, until it is complete or the drawer is interrupted."""
    return generate(open_store(folder, n, **options), drawer or StubDrawer(), ExactGrader())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
