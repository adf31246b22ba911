"""The fields that chat and completions have in common, and what becomes of them in the engine.

A field that is null counts as absent. A field that is not here is refused by name, because a client
that misspells one should hear of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gsr_engine.errors import InvalidRequest, check_float
from gsr_engine.params import MAX_CANDIDATES, MAX_TIMEOUT, Layout, Order, SamplingParams, View
from gsr_engine.repetition import RepetitionDetectionParams
from gsr_engine.serving.events import Coalesce
from gsr_engine.serving.http.replies import Options
from gsr_engine.serving.http.settings import Settings

TIMEOUT_HEADER = "x-request-timeout"
MOST_ROUNDS = 16
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Width = Annotated[int, Field(ge=1, le=MAX_CANDIDATES)]
T = TypeVar("T")
Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is refused at its first bad item: a body may hold millions of them."""


def only(*neutral: object) -> AfterValidator:
    """For a field of OpenAI's or vLLM's: any value but the neutral ones is refused."""

    def check(value: object) -> object:
        if value not in neutral:
            raise ValueError(f"is not supported (only {' or '.join(map(repr, neutral))})")
        return value

    return AfterValidator(check)


class Body(BaseModel):
    """An object in a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: object) -> object:
        fields = cls.model_fields
        if not isinstance(value, dict):
            return value
        # A body may hold a hundred thousand objects; nearly all of them have nothing to leave out.
        if None not in value.values() and value.keys() <= fields.keys():
            return value
        given = {name: one for name, one in value.items() if one is not None}
        # A body may hold half a million unknown fields: the first one is refused for all of them.
        unknown = next((name for name in given if name not in fields), None)
        known = {*fields, unknown}
        return {name: one for name, one in given.items() if name in known}


class Repetition(Body):
    """When a stream has run into a loop: `RepetitionDetectionParams`."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0


class Sampling(Body):
    """How tokens are drawn and when a stream ends, in fields of `SamplingParams`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: Count | None = None
    min_tokens: int | None = None
    stop: str | Many[str] | None = None
    stop_token_ids: Many[int] | None = None
    ignore_eos: bool | None = None
    repetition_detection: Repetition | None = None

    def drawing(self) -> dict[str, Any]:
        """The given fields that say how a token is drawn."""
        return self._given(_DRAWING)

    def ending(self) -> dict[str, Any]:
        """The given fields that say when a stream ends.

        Raises:
            InvalidRequest: a loop is described by a value out of range.
        """
        given = self._given(_ENDING)
        if self.repetition_detection is not None:
            loops = self.repetition_detection.model_dump(exclude_unset=True)
            given["repetition_detection"] = RepetitionDetectionParams(**loops)
        return given

    def _given(self, names: Iterable[str]) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


_DRAWING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
_ENDING = (
    *("max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos"),
    "repetition_detection",
)


class StreamOptions(Body):
    """What chunks carry besides text: usage at the end, or on every chunk."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Refinement(Body):
    """selfRef@k: the fields of `SelfRefineParams` that no other field of the request sets.

    The top level holds how the refinement is drawn, and `n`, `seed`, `priority` and `timeout`.
    `candidate` alone says how candidates are drawn. What ends a stream (`max_tokens`, `stop`, …)
    holds for both, unless `candidate` says otherwise.
    """

    method: Literal["selfref"] = "selfref"
    stream: Literal["final", "phases", "all"] = "final"
    k: Width | None = None
    candidates: Many[str | Many[int]] | None = None
    candidate: Sampling = Field(default_factory=Sampling)
    layout: Layout | None = None
    view: View | None = None
    order: Order | None = None
    summary_tokens: Count | None = None
    min_candidates: int | None = None
    candidate_timeout: float | None = None
    agreement: int | None = None
    first: int | None = None
    widths: Annotated[list[Width], Field(max_length=MOST_ROUNDS)] | None = None
    subset: int | None = None
    refinements: Width | None = None
    force_layout: bool | None = None
    template: str | None = None


class Generating(Sampling):
    """A request for tokens."""

    model: str | None = None
    n: Width = 1
    seed: int | None = None
    max_completion_tokens: Count | None = None
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    priority: int = 0
    timeout: float | None = None
    cache_salt: str | None = None
    return_token_ids: bool = False
    gsr: Refinement | None = None

    # Accepted without effect: notes of clients to themselves, and hints of routers, which are
    # logged.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    session_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    agent_hint: Any = None
    agentic_context: Any = None

    logit_bias: Annotated[Any, only({})] = None
    response_format: Annotated[Any, only({"type": "text"})] = None
    skip_special_tokens: Annotated[Any, only(True)] = None
    use_beam_search: Annotated[Any, only(False)] = None
    # vLLM's router adds these to every request.
    no_stop_trim: Annotated[Any, only(False)] = None
    return_hidden_states: Annotated[Any, only(False)] = None
    include_reasoning: Annotated[Any, only(True)] = None
    separate_reasoning: Annotated[Any, only(True)] = None
    stream_reasoning: Annotated[Any, only(True)] = None

    def hints(self) -> dict[str, str]:
        """What routers said about it."""
        names = ("user", "session_params", "vllm_xargs", "agent_hint", "agentic_context")
        every = {name: getattr(self, name) for name in names}
        return {name: str(value)[:200] for name, value in every.items() if value is not None}

    def sampling(self, **others: Any) -> SamplingParams:
        """Its parameters as the engine's; `others` take the place of fields, or add some.

        Raises:
            InvalidRequest: a value is out of range.
        """
        return SamplingParams(**{**self.drawing(), **self.ending(), **others})

    def reply_options(self, logprobs: int | None) -> Options:
        """What the reply carries."""
        return Options(
            logprobs=logprobs,
            token_ids=self.return_token_ids,
            usage_at_end=self.stream_options.include_usage,
            usage_always=self.stream_options.continuous_usage_stats,
        )

    @property
    def coalesce(self) -> Coalesce:
        """The rounds of which the reply tells no token before its stream ends."""
        if not self.stream:
            return "all"
        every = self.gsr is not None and self.gsr.stream == "all"
        return "none" if every or self.stream_options.continuous_usage_stats else "inner"

    def check_options(self) -> None:
        """Raise InvalidRequest for options of a stream where none is asked for."""
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequest("stream_options", "needs stream: true")


def seconds_left(body: Generating, request: Request) -> float | None:
    """The time limit of a request: its field's or its header's, whichever is shorter.

    Raises:
        InvalidRequest: it is no number above 0.
    """
    limits = [] if body.timeout is None else [body.timeout]
    header = request.headers.get(TIMEOUT_HEADER)
    if header is not None:
        try:
            limits.append(float(header.replace("_", "?")))  # Python's 1_0 is no number elsewhere
        except ValueError:
            raise InvalidRequest(TIMEOUT_HEADER, "must be a number of seconds") from None
    for limit in limits:
        check_seconds("timeout", limit)
    return min(limits, default=None)


def check_seconds(name: str, seconds: float) -> None:
    """Raise InvalidRequest for a time limit that leaves no time, or is none."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise InvalidRequest(name, f"must be a number of seconds above 0, got {seconds}")
    check_float(name, seconds, 0.0, MAX_TIMEOUT)


def check_count(name: str, count: int, most: int) -> None:
    """Raise InvalidRequest for more than the server allows."""
    if count > most:
        raise InvalidRequest(name, f"{count} is more than this server's {most}")


def stream_limit(settings: Settings, asked: int | None) -> int | None:
    """`max_tokens` of a stream under the server's own limit.

    Raises:
        InvalidRequest: more was asked for.
    """
    if asked is not None and settings.max_tokens is not None:
        check_count("max_tokens", asked, settings.max_tokens)
    return settings.max_tokens if asked is None else asked
