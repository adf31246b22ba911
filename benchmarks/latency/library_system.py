"""A library in this process that continues token ids: selfRef@k is the caller's loop over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from benchmarks.latency.cell import Streams
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.servers import NotAnswered
from gsr_engine.errors import InvalidRequest
from gsr_engine.outputs import Completion, FinishReason
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Prompts


@dataclass(frozen=True, slots=True)
class Written:
    """A stream that a library wrote: its tokens with the end token, and two moments.

    Moments are on the clock of `time.perf_counter`.
    """

    token_ids: list[int]
    first: float
    last: float


class Continues(Protocol):
    """A library that is ready."""

    async def continued(self, prompt: list[int], n: int, tokens: int, draws: bool) -> list[Written]:
        """Some streams of a prompt, of at most so many tokens.

        They are drawn at temperature 1, or greedy.
        """
        ...


Library = Callable[[bool, int], AbstractAsyncContextManager[Continues]]
"""Whether every stream has exactly its most tokens, and the most streams at once, to a library."""


class LibrarySystem:
    """A library and the loop over it.

    Args:
        name: of the library.
        library: opens it.
        prompts: of the checkpoint.
        most_at_once: problems; the library may need room for the streams of so many.
    """

    def __init__(self, name: str, library: Library, prompts: Prompts, most_at_once: int) -> None:
        self.name = name
        self._library, self._prompts, self._most_at_once = library, prompts, most_at_once

    @asynccontextmanager
    async def open(self, streams: Streams) -> AsyncIterator[LibraryAnswerer]:
        """Open the library."""
        async with self._library(streams.fixed, streams.k * self._most_at_once) as library:
            yield LibraryAnswerer(library, self._prompts, streams)


class LibraryAnswerer:
    """A library for one cell; the arguments are those of `LibrarySystem`."""

    def __init__(self, library: Continues, prompts: Prompts, streams: Streams) -> None:
        self._library, self._prompts, self._streams = library, prompts, streams

    async def answer(self, problem: str, seed: int, moments: Moments) -> TimedAnswer:
        """See `Answerer`; the library has a generator of its own, so the seed does not count."""
        streams, library = self._streams, self._library
        try:
            prompts = ProblemPrompts(self._prompts, problem)
        except InvalidRequest as error:
            raise NotAnswered(f"refused: {error}") from None
        drawn = await library.continued(prompts.direct, streams.k, streams.candidate, True)
        for index, one in enumerate(drawn):
            moments.candidate(index, one.first)
            moments.candidate(index, one.last)
        candidates = [self._completion(i, one) for i, one in enumerate(drawn)]
        reads = prompts.linear(self._shown(candidates))
        (refined,) = await library.continued(reads, 1, streams.refine, False)
        moments.refinement(refined.first)
        moments.refinement(refined.last)
        candidate_tokens = sum(len(one.token_ids) for one in drawn)
        if wrong := streams.check(candidate_tokens, len(refined.token_ids)):
            raise NotAnswered(wrong)
        return moments.answer(
            candidate_tokens=candidate_tokens,
            refine_tokens=len(refined.token_ids),
            computed_tokens=None,
            candidate_answers=[self._prompts.text_and_answer(one)[1] for one in candidates],
            answer=self._prompts.text_and_answer(self._completion(0, refined))[1],
        )

    def _shown(self, candidates: list[Completion]) -> list[list[int]]:
        """The tokens of those that are usable."""
        streams = self._streams
        shown = [
            self._prompts.summary(one.content_ids, streams.summary_tokens, streams.fixed)
            for one in candidates
        ]
        usable = [one.token_ids for one in shown if one is not None]
        if not usable:
            raise NotAnswered("no candidate is usable")
        return usable

    def _completion(self, index: int, written: Written) -> Completion:
        tokenizer, ids = self._prompts.tokenizer, written.token_ids
        stopped = bool(ids) and ids[-1] in tokenizer.stop_ids
        content = ids[:-1] if stopped else ids
        reason: FinishReason = "stop" if stopped else "length"
        return Completion(index, tokenizer.decode(content), ids, [], reason, len(content))

    async def peak_pages(self) -> None:
        """A library does not tell."""
        return
