"""Samples drawn by a server that speaks OpenAI's chat completions (vLLM, SGLang, a provider)."""

from __future__ import annotations

from typing import Any, Self

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.seeds import derive_seed
from train.generation.chat_client import ChatClient, RequestFailed
from train.generation.drawer import Ask, DrawConfig
from train.generation.questions import prompt_text
from train.samples import Sample


class EndpointDrawer:
    """One request per sample. Use it as a context manager.

    A request that fails for its own reasons (a refusal, a time-out, a server error) is a failed
    sample. If the next request would fail too, `finished` raises an `EndpointError` instead.

    Args:
        config: `model` is the server's name for it.
        gsr: the texts around problem and candidates, and how an answer is found.
        base_url: e.g. "http://host:8000/v1".
        options: more of `ChatClient`.

    Raises:
        InvalidRequest: the openai client is not installed.
    """

    def __init__(self, config: DrawConfig, gsr: GsrConfig, base_url: str, **options: Any) -> None:
        self._config = config
        self._gsr = gsr
        # What the protocol lacks, under the names that vLLM and SGLang gave it.
        variables = dict(gsr.template.chat_template_kwargs)
        extra = {"top_k": config.top_k, "chat_template_kwargs": variables}
        self._extra = {name: value for name, value in extra.items() if value}
        self._client: ChatClient[Sample] = ChatClient(config.model, gsr, base_url, **options)

    @property
    def room(self) -> int:
        """Twice as many samples are kept submitted as are asked for at a time."""
        return 2 * self._client.concurrency - self._client.num_unfinished

    @property
    def num_running_tokens(self) -> int:
        """0: a server tells the length of an answer at its end."""
        return 0

    def submit(self, ask: Ask) -> None:
        """One request for every sample."""
        for sample in ask.samples:
            self._client.start(self._draw(ask, sample))

    def finished(self) -> list[Sample]:
        """Wait for answers, for a moment."""
        return self._client.finished()

    async def _draw(self, ask: Ask, sample: int) -> Sample:
        config = self._config
        seed = derive_seed(config.prompt_seed(ask.prompt), sample) >> 32  # servers differ in range
        try:
            reply = await self._client.ask(
                prompt_text(ask.prompt, self._gsr.template),
                temperature=config.temperature,
                top_p=config.top_p,
                max_tokens=config.max_tokens,
                seed=seed,
                extra_body=self._extra or None,
            )
        except RequestFailed as error:
            return ask.failed(sample, config.model, str(error))
        return Sample(
            id=ask.prompt.id,
            index=sample,
            key=ask.key,
            text=reply.text,
            finish_reason=reply.finish_reason,
            num_tokens=reply.num_tokens,
            answer=reply.answer,
            source=config.model,
        )

    def close(self) -> None:
        """Cancel the requests in flight, and close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
