"""Samples drawn by a server that speaks OpenAI's chat completions (vLLM, SGLang, a provider)."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from gsr_engine.checkpoint.control_tokens import KNOWN_TAGS
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import GsrError, InvalidRequest
from gsr_engine.seeds import derive_seed
from gsr_engine.text.answers import find_answer
from train.generation.drawer import Ask, DrawConfig
from train.generation.questions import prompt_text
from train.samples import Sample

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_MOMENT = 0.5
"""Longest wait of `finished` in seconds, so that heartbeats go on."""
_WHOLE_SERVER = (401, 403, 404, 429, 502, 503, 504)
"""Status codes that the next request would get too: no access, no such model, busy too long."""


class EndpointError(GsrError):
    """The server cannot be used (any more); another run draws the missing samples."""


class EndpointDrawer:
    """One request per sample, `concurrency` of them at a time. Use it as a context manager.

    After time-outs, lost connections, 408, 409, 429 and 5xx the client tries a request again, each
    time later, or when the server says (Retry-After). A request that still fails for its own
    reasons (a refusal, a time-out, a server error) is a failed sample. If the next request would
    fail too (unreachable, no access, no such model, always busy), `finished` raises instead.

    Args:
        config: `model` is the server's name for it.
        gsr: the texts around problem and candidates, and how an answer is found.
        base_url: e.g. "http://host:8000/v1".
        api_key: None takes OPENAI_API_KEY, which may be missing if the server needs no key.
        concurrency: requests at a time.
        retries: of a request, after the first try.
        timeout: seconds for one try.

    Raises:
        InvalidRequest: the openai client is not installed.
        EndpointError: from `finished`.
    """

    def __init__(
        self,
        config: DrawConfig,
        gsr: GsrConfig,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 64,
        retries: int = 8,
        timeout: float = 1800.0,
    ) -> None:
        if find_spec("openai") is None:
            raise InvalidRequest("base_url", "needs openai: pip install 'gsr-engine[endpoint]'")
        import openai  # noqa: PLC0415  # an extra

        self._openai = openai
        self._config = config
        self._gsr = gsr
        # What the protocol lacks, under the names that vLLM and SGLang gave it.
        variables = dict(gsr.template.chat_template_kwargs)
        extra = {"top_k": config.top_k, "chat_template_kwargs": variables}
        self._extra = {name: value for name, value in extra.items() if value}
        self._tags = KNOWN_TAGS[0] if gsr.thinking == "auto" else gsr.thinking
        self._base_url = base_url
        self._concurrency = concurrency
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=retries,
            timeout=timeout,
        )
        # Runs inside `finished` only: sockets fill meanwhile, and no thread has to be stopped.
        self._loop = asyncio.new_event_loop()
        self._turn = asyncio.Semaphore(concurrency)
        self._tasks: set[asyncio.Task[Sample]] = set()

    @property
    def room(self) -> int:
        """Twice `concurrency` samples are kept submitted."""
        return 2 * self._concurrency - len(self._tasks)

    @property
    def num_running_tokens(self) -> int:
        """0: a server tells the length of an answer at its end."""
        return 0

    def submit(self, ask: Ask) -> None:
        """One request for every sample."""
        for sample in ask.samples:
            self._tasks.add(self._loop.create_task(self._draw(ask, sample)))

    def finished(self) -> list[Sample]:
        """Wait for answers, for a moment."""
        if not self._tasks:
            return []
        waiting = asyncio.wait(self._tasks, timeout=_MOMENT, return_when=asyncio.FIRST_COMPLETED)
        done, _ = self._loop.run_until_complete(waiting)
        # Answers that came beside an error were paid for: they are returned first.
        drawn = {task: task.result() for task in done if task.exception() is None}
        if not drawn and done:
            raise done.pop().exception() or EndpointError("it has no cause")
        self._tasks.difference_update(drawn)
        return list(drawn.values())

    async def _draw(self, ask: Ask, sample: int) -> Sample:
        try:
            async with self._turn:
                answer = await self._ask(ask, sample)
            return self._drawn(ask, sample, answer)
        except self._openai.APIStatusError as error:
            if error.status_code in _WHOLE_SERVER:
                raise self._unusable(error) from None
            return ask.failed(sample, self._config.model, str(error))
        except self._openai.APITimeoutError as error:
            return ask.failed(sample, self._config.model, str(error))
        except self._openai.APIConnectionError as error:
            raise self._unusable(error) from None
        except self._openai.OpenAIError as error:
            return ask.failed(sample, self._config.model, repr(error))

    def _unusable(self, error: Exception) -> EndpointError:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return EndpointError(f"{self._base_url}: {error}{cause}")

    async def _ask(self, ask: Ask, sample: int) -> ChatCompletion:
        config = self._config
        seed = derive_seed(config.prompt_seed(ask.prompt), sample) >> 32  # servers differ in range
        return await self._client.chat.completions.create(
            model=config.model,
            messages=[{"role": "user", "content": prompt_text(ask.prompt, self._gsr.template)}],
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=config.max_tokens,
            seed=seed,
            extra_body=self._extra or None,
        )

    def _drawn(self, ask: Ask, sample: int, answer: ChatCompletion) -> Sample:
        if not answer.choices or answer.usage is None:
            return ask.failed(sample, self._config.model, f"no choice or no usage: {answer!r:.500}")
        choice = answer.choices[0]
        text = self._text(choice.message)
        return Sample(
            id=ask.prompt.id,
            index=sample,
            key=ask.key,
            text=text,
            # "stop" or "length", but also a filter or a tool call.
            finish_reason=choice.finish_reason,
            num_tokens=answer.usage.completion_tokens,
            answer=find_answer(self._without_thinking(text), self._gsr.answer_pattern),
            source=self._config.model,
        )

    def _text(self, message: object) -> str:
        """The answer with its thinking, which many servers send in a field of its own."""
        content = getattr(message, "content", None) or ""
        apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if not apart or self._tags is None:
            return content
        begin, end = self._tags
        return f"{begin}\n{apart}\n{end}\n{content}"

    def _without_thinking(self, text: str) -> str:
        """The text after the thinking; "" if the thinking has no end."""
        if self._tags is None:
            return text
        begin, end = self._tags
        _, ended, rest = text.rpartition(end)
        return rest if ended or begin not in text else ""

    def close(self) -> None:
        """Cancel the requests in flight, and close the connections."""
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
