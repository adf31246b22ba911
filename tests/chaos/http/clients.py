"""A crowd: each client acts, asks, and reads its answer or leaves."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.actions import Event, random_history
from tests.chaos.http.judge import judge
from tests.chaos.http.questions import Question
from tests.chaos.http.wire import Address, Answer, Connection, Leave
from tests.chaos.http.world import HttpWorld, Log

PATIENCE = 180.0
"""Seconds after which a client that got no answer counts as forgotten."""
_LEAVES: tuple[Leave, ...] = ("half a body", "at once", "soon", "soon", "mid-answer")
_MOST_KEPT = 40


@dataclass(slots=True)
class Tally:
    """What came of a crowd's questions.

    Attributes:
        answers: by status.
        left: clients that went away.
        errors: by the code of the error of an answer or of a stream's end.
        kept: some plain questions with the tokens of their answers.
    """

    answers: Counter[int] = field(default_factory=Counter)
    left: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[Question, list[list[int]]]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """Questions so far."""
        return self.answers.total() + self.left


class Crowd:
    """Clients in one event loop, until `over` says so.

    Args:
        world: what they act in.
        seed: of what they do.
        log: what they did.
        over: whether they go home.
    """

    def __init__(self, world: HttpWorld, seed: int, log: Log, over: Callable[[], bool]) -> None:
        self._world, self._seed, self._log, self._over = world, seed, log, over
        self._rng = random.Random(seed)
        self.tally = Tally()

    async def live(self, address: Address, count: int) -> None:
        """Let so many clients live.

        Raises:
            AssertionError: one was not answered as it must be; `log` tells what happened before.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(self._client(address, number))
        except BaseExceptionGroup as failed:
            error = failed.exceptions[0]
            told = f"{type(error).__name__}: {error}"
            raise AssertionError(f"seed {self._seed}: {told}\n{self._log}") from error

    async def _client(self, address: Address, number: int) -> None:
        seed, round_ = self._seed * 1000 + number, 0
        while not self._over():
            for event in random_history(seed + 10**7 * round_, 100):
                if self._over():
                    return
                if event.name == "step":
                    await asyncio.sleep(self._rng.random() * 0.02)
                    continue
                await self._act(address, number, event)
            round_ += 1

    async def _act(self, address: Address, number: int, event: Event) -> None:
        event.happen(self._world)
        for question in self._world.take():
            self._log.add(f"client {number} {event}: {question.name}")
            connection = self._connection(question)
            answer = await self._ask(address, connection)
            self._log.add(f"client {number}: {connection.leave}, {answer and answer.status}")
            if answer is not None and answer.status == 503:
                await asyncio.sleep(2 * self._rng.random())  # about `Retry-After`

    def _connection(self, question: Question) -> Connection:
        rng = self._rng
        leave: Leave = rng.choice(_LEAVES) if rng.random() < 0.25 else "stays"
        return Connection(question, leave, rng.random() < 0.5, rng.random() < 0.1, rng.random())

    async def _ask(self, address: Address, connection: Connection) -> Answer | None:
        question = connection.question
        self._world.live.append(connection)
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await connection.ask(address)
            if answer is None:
                self.tally.left += 1
                return None
            tokens = judge(question, answer)
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(
                f"{type(error).__name__}: {error}\nasked: {question.name} {question.method} "
                f"{question.path} {question.body[:2000].decode(errors='replace')}"
            ) from error
        finally:
            self._world.live.remove(connection)
        self._note(question, answer, tokens)
        return answer

    def _note(self, question: Question, answer: Answer, tokens: list[list[int]] | None) -> None:
        self.tally.answers[answer.status] += 1
        if question.choices and (code := _error_code(answer)):
            self.tally.errors[code] += 1
        if tokens is None or question.params is None:
            return
        self._world.says(question, tokens)
        if question.params.timeout is None:
            kept = self.tally.kept
            if len(kept) < _MOST_KEPT:
                kept.append((question, tokens))
            elif self._rng.random() < 0.05:
                kept[self._rng.randrange(_MOST_KEPT)] = question, tokens


def _error_code(answer: Answer) -> str | None:
    """The code of the error that an answer is, or that its stream ends with."""
    body = answer.body
    if answer.status == 200:
        frames = body.split(b"\n\n")
        body = frames[-3].removeprefix(b"data: ") if len(frames) > 2 else b"{}"
    if not body.startswith(b'{"error"'):
        return None
    code: str = json.loads(body)["error"]["code"]
    return code


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds are over."""
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() > ends
