"""What HTTP costs: the same work by the engine in this process, and over HTTP, in turns."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from statistics import median

import httpx

from benchmarks.peers.servers import NAME, NotAnswered, Server
from gsr_engine import Engine, SamplingParams

PROMPT_TOKENS = 32
FIRST_TOKEN = 6
"""Prompts have no token below this one: the first ids are often special tokens."""
_PATH = "/v1/completions"
Prompts = list[list[int]]


@dataclass(frozen=True, slots=True)
class Overhead:
    """The best of some rounds on both sides.

    Attributes:
        tokens: generated in one round by all requests together.
        inside, outside: seconds for them, in process and over HTTP.
        first_inside, first_outside: median seconds to the first token of a request alone.
    """

    tokens: int
    inside: float
    outside: float
    first_inside: float
    first_outside: float

    @property
    def throughput(self) -> float:
        """Over HTTP divided by in process."""
        return self.inside / self.outside

    @property
    def first_ms(self) -> float:
        """Milliseconds that the first token takes longer over HTTP."""
        return 1e3 * (self.first_outside - self.first_inside)


class Inside:
    """The engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def whole(self, prompts: Prompts, tokens: int) -> float:
        """Seconds until all are answered."""
        return self._timed(prompts, tokens)

    async def first(self, prompt: list[int]) -> float:
        """Seconds to the first token."""
        return self._timed([prompt], 1)

    def _timed(self, prompts: Prompts, tokens: int) -> float:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        start = time.perf_counter()
        self._engine.generate(prompts, params)
        return time.perf_counter() - start


class Outside:
    """A server, by clients who keep their connections."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def whole(self, prompts: Prompts, tokens: int) -> float:
        """Seconds until all are answered; each is a request, which does not stream."""
        start = time.perf_counter()
        replies = await asyncio.gather(
            *(self._client.post(_PATH, json=_body(one, tokens)) for one in prompts)
        )
        seconds = time.perf_counter() - start
        for reply in replies:
            if reply.status_code != 200:
                raise NotAnswered(f"status {reply.status_code}: {reply.text[:300]}")
            if reply.json()["usage"]["completion_tokens"] != tokens:
                raise NotAnswered("an answer has another number of tokens")
        return seconds

    async def first(self, prompt: list[int]) -> float:
        """Seconds to the first chunk with a token."""
        start, seconds = time.perf_counter(), 0.0
        body = {**_body(prompt, 2), "stream": True, "return_token_ids": True}
        async with self._client.stream("POST", _PATH, json=body) as response:
            async for line in response.aiter_lines():
                if not seconds and _has_token(line):
                    seconds = time.perf_counter() - start
        if not seconds:
            raise NotAnswered("a stream without a token")
        return seconds


def _body(prompt: list[int], tokens: int) -> dict[str, object]:
    length = {"max_tokens": tokens, "ignore_eos": True}
    return {"model": NAME, "prompt": prompt, "temperature": 0.0, **length}


def _has_token(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return any(choice.get("token_ids") for choice in choices)


class Draw:
    """Prompts that nobody asked before; the same seed draws the same."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._rng, self._tokens = random.Random(seed), range(FIRST_TOKEN, vocab_size)

    def __call__(self, count: int) -> Prompts:
        """So many prompts."""
        return [self._rng.choices(self._tokens, k=PROMPT_TOKENS) for _ in range(count)]


async def measure_overhead(
    engine: Engine, server: Server, *, requests: int, tokens: int, looks: int, rounds: int
) -> Overhead:
    """Give the same prompts to the engine and the server, in turns; each side's best counts.

    Args:
        engine: of this process; it has the server's threads, dtype and memory.
        server: it runs.
        requests: at the same time.
        tokens: of each answer.
        looks: requests alone, of which the median time to the first token counts.
        rounds: how often.

    Raises:
        NotAnswered: the server did not answer.
    """
    draw = Draw(engine.limits.vocab_size)
    wholes: list[list[float]] = [[], []]
    firsts: list[list[float]] = [[], []]
    async with httpx.AsyncClient(
        base_url=server.url, timeout=3600, limits=httpx.Limits(max_connections=None)
    ) as client:
        sides: tuple[Inside | Outside, ...] = (Inside(engine), Outside(client))
        for side in sides:
            await side.whole(draw(requests), 2)
            await side.first(draw(1)[0])
        for _ in range(rounds):
            prompts, alone = draw(requests), draw(looks)
            for times, side in zip(wholes, sides, strict=True):
                times.append(await side.whole(prompts, tokens))
            seconds: list[list[float]] = [[], []]
            for prompt in alone:
                for ones, side in zip(seconds, sides, strict=True):
                    ones.append(await side.first(prompt))
            for times, ones in zip(firsts, seconds, strict=True):
                times.append(median(ones))
    inside, outside = map(min, wholes)
    first_inside, first_outside = map(min, firsts)
    return Overhead(requests * tokens, inside, outside, first_inside, first_outside)
