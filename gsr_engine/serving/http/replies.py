"""New output as chunks, and finished output as bodies, in the forms of OpenAI's two APIs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, ClassVar

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.outputs import TopLogprobs
from gsr_engine.serving.http.narrator import Choice, Piece

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON does not have."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a reply carries besides text.

    Attributes:
        logprobs: how many of the likeliest tokens beside each token; None for no log-probability.
        token_ids: whether it has the ids of prompt and answer.
        usage_at_end, usage_always: whether a stream's last, or each, chunk has the usage.
    """

    logprobs: int | None = None
    token_ids: bool = False
    usage_at_end: bool = False
    usage_always: bool = False


@dataclass(slots=True)
class _Told:
    """What was told of one choice."""

    text: str = ""
    reasoning: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[TopLogprobs | None] = field(default_factory=list)
    spelled: int = 0  # characters of its tokens in log-probabilities


@dataclass
class Reply(ABC):
    """The reply to one request, chunk by chunk or as a whole.

    Args:
        name: its id.
        model: the id by which the client called the model.
        created: seconds since 1970.
        tokenizer: spells tokens for log-probabilities.
        options: what it carries.
    """

    name: str
    model: str
    created: int
    tokenizer: Tokenizer
    options: Options
    _told: dict[int, _Told] = field(default_factory=lambda: defaultdict(_Told))

    prefix: ClassVar[str]
    """What its id begins with."""
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.name,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def chunk(self, *choices: dict[str, Any]) -> dict[str, Any]:
        """A chunk of a stream; one without choices is the last one, for the usage."""
        return self._frame(self.chunk_kind, list(choices))

    def note(self, piece: Piece) -> None:
        """Remember new output for `body`."""
        told = self._told[piece.index]
        told.text += piece.text
        told.reasoning += piece.reasoning
        if self.options.logprobs is not None:
            told.token_ids += piece.token_ids
            told.logprobs += piece.logprobs
            told.top_logprobs += piece.top_logprobs

    def piece(self, piece: Piece) -> dict[str, Any] | None:
        """New output as a choice of a chunk; None if the client would see nothing in it."""
        wanted = self.options.logprobs is not None or self.options.token_ids
        shown = piece.text or piece.reasoning or piece.gsr is not None
        if not shown and not (wanted and piece.token_ids):
            return None
        choice = {"index": piece.index, **self._delta(piece), "finish_reason": None}
        if self.options.logprobs is not None:
            choice["logprobs"] = self._logprobs(piece.index, piece)
        if self.options.token_ids and not piece.echoed:
            choice["token_ids"] = list(piece.token_ids)
        return choice

    def ending(self, choice: Choice) -> dict[str, Any]:
        """The end of a choice as a choice of a chunk."""
        return {"index": choice.index, **self._delta(Piece(choice.index)), **_finish(choice)}

    def body(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The whole reply."""
        return self._frame(self.kind, [self._whole(choice) for choice in choices])

    def _whole(self, choice: Choice) -> dict[str, Any]:
        told = self._told[choice.index]
        whole = {"index": choice.index, **self._message(told), "logprobs": None}
        if self.options.logprobs is not None:
            whole["logprobs"] = self._logprobs(choice.index, told)
        if self.options.token_ids:
            whole["token_ids"] = choice.completion.token_ids
        return {**whole, **_finish(choice)}

    def opening(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """What a stream begins with."""
        return []

    @abstractmethod
    def add_prompts(self, body: dict[str, Any], prompts: Sequence[Sequence[int]]) -> None:
        """Add the ids of the prompts to a body or a chunk; its choices are as many for each."""

    @abstractmethod
    def _delta(self, piece: Piece) -> dict[str, Any]: ...

    @abstractmethod
    def _message(self, told: _Told) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, index: int, new: Piece | _Told) -> dict[str, Any] | None:
        """Those of new tokens of a choice, which are told in their order."""

    def _ranked(
        self, top: TopLogprobs | None, token: int, logprob: float | None
    ) -> list[tuple[str, float | None]]:
        """The likeliest tokens at the place of a token, as text, as many as were asked for.

        The token itself has the very number that stands beside it: clients compare both.
        """
        listed = list(top or ())[: self.options.logprobs]
        spelled = self.tokenizer.pieces([one for one, _ in listed])
        values = [logprob if one == token else value for one, value in listed]
        return [(text, _number(value)) for text, value in zip(spelled, values, strict=True)]


class ChatReply(Reply):
    """The reply of `/v1/chat/completions`."""

    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def opening(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """A role for every choice, before any text."""
        delta = {"role": "assistant", "content": ""}
        return [{"index": i, "delta": delta, "finish_reason": None} for i in indices]

    def add_prompts(self, body: dict[str, Any], prompts: Sequence[Sequence[int]]) -> None:
        """There is one prompt."""
        body["prompt_token_ids"] = list(prompts[0])

    def _delta(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        if piece.reasoning:
            delta |= {"reasoning": piece.reasoning, "reasoning_content": piece.reasoning}
        return {"delta": delta}

    def _message(self, told: _Told) -> dict[str, Any]:
        message = {"role": "assistant", "content": told.text}
        if told.reasoning:
            message |= {"reasoning": told.reasoning, "reasoning_content": told.reasoning}
        return {"message": message}

    def _logprobs(self, index: int, new: Piece | _Told) -> dict[str, Any] | None:
        content = []
        texts = self.tokenizer.pieces(list(new.token_ids))
        tokens = new.token_ids, new.logprobs, new.top_logprobs
        for text, token, logprob, likely in zip_longest(texts, *tokens):
            ranked = [_token(*one) for one in self._ranked(likely, token, logprob)]
            content.append({**_token(text, _number(logprob)), "top_logprobs": ranked})
        return {"content": content} if content else None


class TextReply(Reply):
    """The reply of `/v1/completions`."""

    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def add_prompts(self, body: dict[str, Any], prompts: Sequence[Sequence[int]]) -> None:
        """Each choice has that of its own."""
        choices = body["choices"]
        for place, choice in enumerate(choices):
            choice["prompt_token_ids"] = list(prompts[place * len(prompts) // len(choices)])

    def _delta(self, piece: Piece) -> dict[str, Any]:
        reasoning = {"reasoning": piece.reasoning} if piece.reasoning else {}
        return {"text": piece.text, **reasoning}

    def _message(self, told: _Told) -> dict[str, Any]:
        return self._delta(Piece(0, told.text, told.reasoning))

    def _logprobs(self, index: int, new: Piece | _Told) -> dict[str, Any] | None:
        texts = self.tokenizer.pieces(list(new.token_ids))
        offsets, told = [], self._told[index]
        for text in texts:
            offsets.append(told.spelled)
            told.spelled += len(text)
        numbers = [_number(value) for value in new.logprobs]
        ranked = [
            None if number is None else {**dict(self._ranked(likely, token, number)), text: number}
            for text, token, number, likely in zip_longest(
                texts, new.token_ids, numbers, new.top_logprobs
            )
        ]
        return {
            "tokens": texts,
            "token_logprobs": numbers,
            "top_logprobs": ranked if self.options.logprobs else None,
            "text_offset": offsets,
        }


def _finish(choice: Choice) -> dict[str, Any]:
    """OpenAI's reason, which is one of two, and the true one where these do not say it."""
    reason = choice.completion.finish_reason
    if reason == "stop":
        return {"finish_reason": "stop", "stop_reason": choice.completion.stop_reason}
    true = None if reason == "length" else reason
    return {"finish_reason": "length", "stop_reason": true}


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)
