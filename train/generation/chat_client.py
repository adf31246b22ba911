"""A client of a server that speaks OpenAI's chat completions: many requests at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from gsr_engine.checkpoint.control_tokens import KNOWN_TAGS
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import GsrError, InvalidRequest
from gsr_engine.text.answers import find_answer

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

ResultT = TypeVar("ResultT")
_MOMENT = 0.5
"""Longest wait of `finished` in seconds, so that its caller can say that it lives."""
_WHOLE_SERVER = (401, 403, 404, 429, 502, 503, 504)
"""Status codes that the next request would get too: no access, no such model, busy too long."""


class EndpointError(GsrError):
    """The server cannot be used (any more); another run draws the missing samples."""


class RequestFailed(GsrError):
    """A request failed for its own reasons, and would again.

    Attributes:
        status: that the server gave; None if it gave none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server.

    Attributes:
        text: with its thinking, between tags.
        answer: the final answer after the thinking; None if it states none.
        finish_reason: "stop" or "length", but also a filter or a tool call.
        completion: as the server sent it.
    """

    text: str
    answer: str | None
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    completion: ChatCompletion


def without_thinking(text: str, tags: tuple[str, str] | None) -> str:
    """The text after the thinking; "" if the thinking has no end; all of it without tags."""
    if tags is None:
        return text
    begin, end = tags
    _, ended, rest = text.rpartition(end)
    return rest if ended or begin not in text else ""


class ChatClient(Generic[ResultT]):
    """Runs jobs that ask the server, `concurrency` requests at a time. Use it as a context manager.

    After time-outs, lost connections, 408, 409, 429 and 5xx the client tries a request again, each
    time later, or when the server says (Retry-After).

    Args:
        model: the server's name for it.
        gsr: how the thinking is told from the answer, and how an answer is found.
        base_url: e.g. "http://host:8000/v1".
        api_key: None takes OPENAI_API_KEY, which may be missing if the server needs no key.
        concurrency: requests at a time.
        retries: of a request, after the first try.
        timeout: seconds for one try.

    Attributes:
        thinking: the tags around thinking; None if there is none.

    Raises:
        InvalidRequest: the openai client is not installed.
    """

    def __init__(
        self,
        model: str,
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
        self._model = model
        self._gsr = gsr
        self.thinking = KNOWN_TAGS[0] if gsr.thinking == "auto" else gsr.thinking
        self._base_url = base_url
        self.concurrency = concurrency
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=retries,
            timeout=timeout,
        )
        # Runs inside `finished` only: sockets fill meanwhile, and no thread has to be stopped.
        self._loop = asyncio.new_event_loop()
        self._turn = asyncio.Semaphore(concurrency)
        self._jobs: set[asyncio.Task[ResultT]] = set()

    @property
    def num_unfinished(self) -> int:
        """Jobs that were started, and not given back by `finished`."""
        return len(self._jobs)

    def start(self, job: Coroutine[Any, Any, ResultT]) -> None:
        """Begin a job, which awaits `ask` as often as it likes."""
        self._jobs.add(self._loop.create_task(job))

    def finished(self) -> list[ResultT]:
        """Wait for jobs, for a moment.

        Raises:
            EndpointError: the server cannot be used.
        """
        if not self._jobs:
            return []
        waiting = asyncio.wait(self._jobs, timeout=_MOMENT, return_when=asyncio.FIRST_COMPLETED)
        done, _ = self._loop.run_until_complete(waiting)
        # Answers that came beside an error were paid for: they are returned first.
        results = {job: job.result() for job in done if job.exception() is None}
        if not results and done:
            raise done.pop().exception() or EndpointError("it has no cause")
        self._jobs.difference_update(results)
        return list(results.values())

    async def ask(self, text: str, **fields: Any) -> Reply:
        """Ask one user message.

        Args:
            text: of the message.
            fields: of the request, as the openai client takes them.

        Raises:
            RequestFailed: it fails for its own reasons: a refusal, a time-out, a server error.
            EndpointError: the next request would fail, too: unreachable, no access, no such model,
                always busy.
        """
        messages: Any = [{"role": "user", "content": text}]
        try:
            async with self._turn:
                completion = await self._client.chat.completions.create(
                    model=self._model, messages=messages, **fields
                )
        except self._openai.APIStatusError as error:
            if error.status_code in _WHOLE_SERVER:
                raise self._unusable(error) from None
            raise RequestFailed(str(error), error.status_code) from None
        except self._openai.APITimeoutError as error:
            raise RequestFailed(str(error)) from None
        except self._openai.APIConnectionError as error:
            raise self._unusable(error) from None
        except self._openai.OpenAIError as error:
            raise RequestFailed(repr(error)) from None
        return self._reply(completion)

    def _unusable(self, error: Exception) -> EndpointError:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        return EndpointError(f"{self._base_url}: {error}{cause}")

    def _reply(self, completion: ChatCompletion) -> Reply:
        usage = completion.usage
        if not completion.choices or usage is None:
            raise RequestFailed(f"no choice or no usage: {completion!r:.500}")
        choice = completion.choices[0]
        # A file cannot hold the surrogates that JSON can.
        text = self._text(choice.message).encode(errors="replace").decode()
        answer = find_answer(without_thinking(text, self.thinking), self._gsr.answer_pattern)
        counts = usage.prompt_tokens, usage.completion_tokens
        return Reply(text, answer, choice.finish_reason, *counts, completion)

    def _text(self, message: object) -> str:
        """The answer with its thinking, which many servers send in a field of its own."""
        content = getattr(message, "content", None) or ""
        apart = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
        if not apart or self.thinking is None:
            return content
        begin, end = self.thinking
        return f"{begin}\n{apart}\n{end}\n{content}"

    def give_up(self) -> None:
        """Cancel the unfinished jobs."""
        self._loop.run_until_complete(self._cancel())

    def close(self) -> None:
        """Cancel the unfinished jobs, and close the connections."""
        self.give_up()
        self._loop.run_until_complete(self._client.close())
        self._loop.close()

    async def _cancel(self) -> None:
        jobs, self._jobs = self._jobs, set()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
