"""One model writes the candidates, another one refines them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.accuracy.generator import Draw, Drawn, EndToEnd, Generator, Results
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Solution
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import Layout
from train.generation.chat_client import without_thinking


class RefinedBy:
    """Two generators as one: direct solutions come from the writer, refinements from the refiner.

    Args:
        writer: draws candidates and solves greedily.
        refiner: answers by every method that reads candidates.
        same_tokens: they have the same tokenizer. Otherwise the refiner reads texts, and tokenises
            them again.
        thinking: tags of the writer's thinking. A refiner that reads texts may not know them, so
            it is given what follows, unless it shall see the thinking.
    """

    def __init__(
        self,
        writer: Generator,
        refiner: Generator,
        *,
        same_tokens: bool,
        thinking: tuple[str, str] | None = None,
    ) -> None:
        self._writer = writer
        self._refiner = refiner
        self._same_tokens = same_tokens
        self._thinking = thinking

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """Those of the refiner."""
        return self._refiner.layouts

    @property
    def tokens_generated(self) -> int:
        """Tokens of both."""
        return self._writer.tokens_generated + self._refiner.tokens_generated

    def watch(self, on_step: Callable[[], object]) -> None:
        """Both call this."""
        self._writer.watch(on_step)
        self._refiner.watch(on_step)

    def settings(self) -> dict[str, Any]:
        """The writer's, and the refiner's apart from them."""
        return {**self._writer.settings(), "refiner_settings": self._refiner.settings()}

    def refusal(self, index: int, draw: Draw, methods: Sequence[Method]) -> InvalidRequest | None:
        """Why one of the two cannot be asked."""
        direct = [one for one in methods if one.layout is None]
        reading = [one for one in methods if one.layout is not None]
        own = self._writer.refusal(index, draw, direct)
        return own or self._refiner.refusal(index, draw, reading)

    def draw_each(self, draw: Draw, indices: Iterable[int]) -> Results[Drawn]:
        """Candidates, by the writer."""
        return self._writer.draw_each(draw, indices)

    def answer_each(
        self,
        method: Method,
        seed: int,
        indices: Iterable[int],
        given: Mapping[int, Sequence[Solution]],
    ) -> Results[Answer]:
        """Answers, by the refiner if they read candidates."""
        if method.layout is None:
            return self._writer.answer_each(method, seed, indices, given)
        if not self._same_tokens:
            tags = None if method.view == "full" else self._thinking
            given = {
                index: [
                    replace(one, token_ids=[], text=without_thinking(one.text, tags))
                    for one in solutions
                ]
                for index, solutions in given.items()
            }
        return self._refiner.answer_each(method, seed, indices, given)

    def end_to_end_each(
        self, method: Method, seed: int, indices: Iterable[int]
    ) -> Results[EndToEnd]:
        """Nothing: no engine has both phases."""
        yield from ()
