"""`echo`: the prompt before each of its answers, with its log-probabilities if they are wanted."""

from __future__ import annotations

from collections.abc import Callable

from gsr_engine.outputs import GenerateResult
from gsr_engine.serving.events import Event, Submitted
from gsr_engine.serving.http.narrator import Answers, Outcome, Piece, PlainNarrator


class EchoNarrator(PlainNarrator):
    """Tells a prompt and its n streams.

    The log-probabilities of a prompt are known at the end of its request, so with them everything
    is told then.

    Args:
        answers: its choices.
        n: how many there are.
        spelled: the text of the prompt, of its ids.
        scored: whether its log-probabilities are wanted.
    """

    def __init__(
        self, answers: Answers, n: int, spelled: Callable[[list[int]], str], scored: bool
    ) -> None:
        super().__init__(answers)
        self._n, self._spelled, self._scored = n, spelled, scored

    def read(self, event: Event[GenerateResult]) -> list[Piece]:
        """The prompt comes first."""
        pieces = super().read(event)
        if isinstance(event, Submitted) and not self._scored:
            return [self._prompt(index) for index in range(self._n)]
        return pieces

    def tell(self, event: Event[GenerateResult]) -> list[Piece]:
        """New tokens, unless they have to wait for the prompt."""
        pieces = super().tell(event)
        return [] if self._scored else pieces

    def finish(self, result: GenerateResult) -> tuple[list[Piece], Outcome]:
        """The n completions, and what waited."""
        pieces, outcome = super().finish(result)
        if self._scored:
            for index, completion in enumerate(result.completions):
                pieces += [self._prompt(index, result), self.answers.whole(index, completion)]
        return pieces, outcome

    def _prompt(self, index: int, result: GenerateResult | None = None) -> Piece:
        token_ids = list(self.prompt_token_ids)
        place, text = self.answers.first + index, self._spelled(token_ids)
        scores = result.prompt_logprobs if result is not None else None
        if scores is None:
            return Piece(place, text, echoed=True)
        top = scores.top_logprobs or ()
        return Piece(place, text, "", token_ids, scores.logprobs, top, echoed=True)
