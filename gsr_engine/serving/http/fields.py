"""The fields that chat and completions have in common, and what becomes of them in the engine.

A field that is null counts as absent. A field that is not here is refused by name, because a client
that misspells one should hear of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from gsr_engine.errors import InvalidRequest, check_float
from gsr_engine.params import (
    MAX_CANDIDATES,
    MAX_TOP_LOGPROBS,
    Layout,
    Order,
    SamplingParams,
    View,
)
from gsr_engine.repetition import RepetitionDetectionParams
from gsr_engine.serving.http.settings import Settings

TIMEOUT_HEADER = "x-request-timeout"
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


def only(*neutral: object) -> Any:
    """The type of a field of OpenAI's or vLLM's that counts only with a value that asks nothing."""

    def check(value: object) -> object:
        if value not in neutral:
            takes = " or ".join(repr(one) for one in neutral) or "nothing"
            raise ValueError(f"is not supported (only {takes})")
        return value

    return Annotated[Any, AfterValidator(check)]


class Body(BaseModel):
    """An object in a request."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _nulls_are_absent(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: one for name, one in value.items() if one is not None}
        return value


class Repetition(Body):
    """When a stream has run into a loop: `RepetitionDetectionParams`."""

    max_pattern_size: int = 0
    min_pattern_size: int = 0
    min_count: int = 0


class Sampling(Body):
    """How tokens are drawn and when a stream ends: fields of `SamplingParams`, which checks them."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: Count | None = None
    min_tokens: int = 0
    stop: str | list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    repetition_detection: Repetition | None = None

    def drawing(self) -> dict[str, Any]:
        """The fields that say how a token is drawn."""
        return {name: getattr(self, name) for name in _DRAWING}

    def ending(self) -> dict[str, Any]:
        """The fields that say when a stream ends, as far as they are given."""
        given = {name: getattr(self, name) for name in _ENDING & self.model_fields_set}
        loops = given.get("repetition_detection")
        if loops is not None:
            given["repetition_detection"] = RepetitionDetectionParams(**loops.model_dump())
        return given


_DRAWING = (
    *("temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
_ENDING = frozenset(
    ("max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "repetition_detection")
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
    k: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None
    stream: Literal["final", "phases", "all"] = "final"
    candidates: list[str | list[int]] | None = None
    candidate: Sampling = Field(default_factory=Sampling)
    layout: Layout = "linear"
    view: View = "summary"
    order: Order | None = None
    summary_tokens: Count = 1000
    min_candidates: int = 1
    candidate_timeout: float | None = None
    agreement: int = 0
    first: int = 0
    widths: list[Annotated[int, Field(ge=1, le=MAX_CANDIDATES)]] = Field([], max_length=16)
    subset: int | None = None
    refinements: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] | None = None
    force_layout: bool = False
    template: str | None = None


class Generating(Sampling):
    """A request for tokens."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CANDIDATES)] = 1
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

    logit_bias: only({}) = None
    response_format: only({"type": "text"}) = None
    skip_special_tokens: only(True) = None
    use_beam_search: only(False) = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise ValueError("stream_options: needs stream: true")
        return self

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


def seconds_left(body: Generating, request: Request) -> float | None:
    """The time limit of a request: its field's or its header's, whichever is shorter.

    Raises:
        InvalidRequest: it is no number above 0.
    """
    limits = [] if body.timeout is None else [body.timeout]
    header = request.headers.get(TIMEOUT_HEADER)
    if header is not None:
        try:
            limits.append(float(header))
        except ValueError:
            raise InvalidRequest(TIMEOUT_HEADER, "must be a number of seconds") from None
    for limit in limits:
        if not math.isfinite(limit) or limit <= 0:
            raise InvalidRequest("timeout", f"must be a number of seconds above 0, got {limit}")
        check_float("timeout", limit, 0.0, 1e9)
    return min(limits, default=None)


def check_count(settings: Settings, name: str, count: int, most: int) -> None:
    """Raise InvalidRequest for more than a setting of the server allows."""
    if count > most:
        raise InvalidRequest(name, f"{count} is more than this server's {most}")


def stream_limit(settings: Settings, asked: int | None) -> int | None:
    """`max_tokens` of a stream under the server's own limit.

    Raises:
        InvalidRequest: more was asked for.
    """
    if asked is not None and settings.max_tokens is not None:
        check_count(settings, "max_tokens", asked, settings.max_tokens)
    return settings.max_tokens if asked is None else asked


__all__ = ["MAX_TOP_LOGPROBS"]
