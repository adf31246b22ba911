"""Samples drawn by this engine, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gsr_engine import Completion, Engine, InvalidRequest
from gsr_engine.requests.generate import GenerateRequest
from train.generation.drawer import Ask, DrawConfig
from train.generation.questions import Question, prompt_ids
from train.samples import Sample


class EngineDrawer:
    """One request per prompt: its samples share the prompt's KV.

    The engine should have no prefix cache. Questions share little but their header, and with KV
    from the cache the last bits of a draw may differ.

    Raises:
        InvalidRequest: the checkpoint has no chat template.
    """

    def __init__(self, engine: Engine, config: DrawConfig) -> None:
        self._engine = engine
        engine.direct_prompt("?")  # raises before anything is drawn
        self._config = config
        self._running: dict[int, tuple[GenerateRequest, Ask, int]] = {}
        self._refused: list[Sample] = []
        self._in_flight = 0

    @property
    def room(self) -> int:
        """Twice as many samples as the engine decodes at a time are kept in flight."""
        return 2 * self._engine.limits.max_num_seqs - self._in_flight

    @property
    def num_running_tokens(self) -> int:
        """Tokens so far of samples that are not finished."""
        requests = [request for request, _, _ in self._running.values()]
        return sum(len(stream.segment) for request in requests for stream in request.streams)

    def submit(self, ask: Ask) -> None:
        """Begin to draw; samples that the engine cannot serve are returned as failed."""
        for first, count in runs(ask.samples, self._engine.limits.max_num_seqs):
            try:
                request = self._request(ask.prompt, first, count)
            except InvalidRequest as error:
                self._refused += self._failed(ask, first, count, str(error))
                continue
            self._engine.submit(request)
            self._running[id(request)] = (request, ask, first)
            self._in_flight += count

    def _request(self, prompt: Question, first: int, count: int) -> GenerateRequest:
        token_ids = prompt_ids(prompt, self._engine.prompts)
        params = self._config.sampling(count, self._config.prompt_seed(prompt))
        return self._engine.new_generate(token_ids, params, first=first)

    def finished(self) -> list[Sample]:
        """Compute one step."""
        drawn, self._refused = self._refused, []
        for done in self._engine.step():
            request, ask, first = self._running.pop(id(done))
            self._in_flight -= request.num_streams
            result = request.result
            if result is None or result.error is not None:
                error = "it was dropped" if result is None else str(result.error)
                drawn += self._failed(ask, first, request.num_streams, error)
                continue
            drawn += [self._drawn(ask, first + one.index, one) for one in result.completions]
        return drawn

    def _drawn(self, ask: Ask, sample: int, completion: Completion) -> Sample:
        return Sample(
            id=ask.prompt.id,
            index=sample,
            key=ask.key,
            text=completion.text,
            token_ids=completion.content_ids,
            tokenizer=self._config.tokenizer,
            finish_reason=completion.finish_reason,
            num_tokens=len(completion.token_ids),
            logprob=completion.logprob,
            answer=self._engine.find_answer(completion),
            source=self._config.model,
        )

    def _failed(self, ask: Ask, first: int, count: int, error: str) -> list[Sample]:
        samples = range(first, first + count)
        return [ask.failed(sample, self._config.model, error) for sample in samples]


def runs(numbers: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Rising numbers as (first, count) of neighbours, no more than `most` at a time."""
    begin = 0
    for end in range(1, len(numbers) + 1):
        whole = end - begin == most
        if end == len(numbers) or whole or numbers[end] != numbers[end - 1] + 1:
            yield numbers[begin], end - begin
            begin = end
