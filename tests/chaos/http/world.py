"""What an action of the engine's list is to clients who only have HTTP."""

from __future__ import annotations

import random
from collections import deque
from contextlib import suppress
from typing import Any

from gsr_engine import AsyncEngine, EngineClosed, SamplingParams, SelfRefineParams
from gsr_engine.demo.report import NANO
from gsr_engine.params import Layout
from tests.chaos.actions import Fault
from tests.chaos.http.questions import Question, nonsense, plain, refined
from tests.chaos.http.wire import Connection
from tests.chaos.saboteur import Saboteur

_MOST_SAID = 12


class HttpWorld:
    """See `World`. Actions become questions; nothing but a client's own luck breaks.

    Attributes:
        asked: questions of the last action, to be taken by the client who acted.
        live: connections that wait for an answer.
    """

    faults: tuple[Fault, ...] = ("launch",)
    problems = ("1 * 2", "1 * 3", "7 * 8 * 9 + 1")
    layouts: tuple[Layout, ...] = ("linear", "branched")
    longest = 200
    soon = 0.5

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.said: list[list[int]] = []
        self.asked: list[Question] = []
        self.live: list[Connection] = []

    def take(self) -> list[Question]:
        """The questions of the last action."""
        asked, self.asked = self.asked, []
        return asked

    def says(self, question: Question, tokens: list[list[int]]) -> None:
        """Somebody was answered."""
        self.said += [[*question.prompt, *one] for one in tokens]
        self.said = self.said[-_MOST_SAID:]

    def step(self) -> None:
        """The client waits."""

    def generate(self, prompt: list[int], params: SamplingParams) -> None:
        self.asked.append(plain(prompt, params, self._rng))

    def refine(self, problem: str, params: SelfRefineParams, given: list[list[int]] | None) -> None:
        self.asked.append(refined(problem, params, given, self._rng))

    def two_engines(self, problem: str, params: SelfRefineParams) -> None:
        """One refines what another wrote, as text."""
        self.asked.append(refined(problem, SelfRefineParams(), ["2", "4", ""], self._rng))

    def abort(self, rng: random.Random) -> None:
        """Cut somebody's connection."""
        if self.live:
            rng.choice(self.live).cut()

    def misuse(self, rng: random.Random) -> None:
        self.asked += [nonsense(rng) for _ in range(3)]

    def evict(self) -> None:
        """Nothing: this is not for clients."""

    def reload(self) -> None:
        """Nothing: this is not for clients."""

    def fault(self, kind: Fault, rng: random.Random) -> None:
        """Nothing: this is not for clients."""


class BrokenWorld(HttpWorld):
    """The same with the engine at hand, whose device breaks."""

    faults = ("launch", "attention", "sampling", "transfer", "nan", "nan", "memory")

    def __init__(self, seed: int, engine: AsyncEngine, runner: Saboteur, cache: Any) -> None:
        super().__init__(seed)
        self._engine, self._runner, self._cache = engine, runner, cache

    def abort(self, rng: random.Random) -> None:
        """Cut a connection, or let an operator end any request."""
        if rng.random() < 0.5:
            super().abort(rng)
            return
        loop = self._engine.loop

        def abort_any() -> None:
            if loop.tickets:
                loop.abort(rng.choice(list(loop.tickets)))

        self._in_engine(abort_any)

    def evict(self) -> None:
        if self._cache:
            self._in_engine(self._cache.evict)

    def reload(self) -> None:
        maker = self._engine.maker
        self._in_engine(lambda: maker.reload_weights(NANO))  # type: ignore[attr-defined]

    def fault(self, kind: Fault, rng: random.Random) -> None:
        """A step is everybody's: were it always broken, nobody would be answered."""
        if rng.random() < 0.1:
            self._runner.fault, self._runner.fault_row = kind, rng.randrange(1000)

    def _in_engine(self, work: Any) -> None:
        with suppress(EngineClosed):
            self._engine.loop.call(work)


class Log:
    """The last things that happened, in order."""

    def __init__(self, most: int = 400) -> None:
        self._lines: deque[str] = deque(maxlen=most)

    def add(self, line: str) -> None:
        """Something happened."""
        self._lines.append(line)

    def __str__(self) -> str:
        return "\n".join(self._lines)
