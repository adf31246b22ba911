"""selfRef@k over HTTP: whether it is asked for, with which parameters, within which budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from gsr_engine.errors import InvalidRequest, shown
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.serving.http.errors import Problem, renamed
from gsr_engine.serving.http.fields import (
    Generating,
    Refinement,
    check_count,
    check_seconds,
    stream_limit,
)
from gsr_engine.serving.http.narrator import Answers
from gsr_engine.serving.http.refined_narrator import RefinedNarrator
from gsr_engine.serving.http.runs import Job
from gsr_engine.serving.http.state import Server
from gsr_engine.serving.http.thinking import Thinking
from gsr_engine.text.problem_prompts import Problem as Stated

_METHOD = re.compile(r"selfref@([1-9]\d{0,3})")
CHAT_TEMPLATE = "plain"
"""The template of a chat whose checkpoint names none: it asks for no form of answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for around its own fields.

    Attributes:
        timeout: seconds until it ends, or None.
        cache_salt: keeps its prefixes apart.
        variables: of the chat template.
        logprobs: likeliest tokens beside each token of the answer.
    """

    timeout: float | None
    cache_salt: str
    variables: Mapping[str, Any]
    logprobs: int


def asked_k(server: Server, model: str | None, gsr: Refinement | None) -> int | None:
    """The number of candidates that a request asks for; None for a plain answer.

    Nothing but the model's id and the field `gsr` asks for them.

    Raises:
        Problem: there is no such model.
        InvalidRequest: there is no such method, or k is out of range or said twice.
    """
    k = None if model is None else _k_of_id(server, model)
    if k is None and gsr is None:
        return None
    said = {} if k is None else {"model": k}
    if gsr is not None:
        if gsr.candidates is not None:
            if not gsr.candidates:
                raise InvalidRequest("gsr.candidates", "is empty")
            said["gsr.candidates"] = len(gsr.candidates)
        if gsr.k is not None:
            said["gsr.k"] = gsr.k
    field, k = next(reversed(said.items()), ("gsr.k", server.settings.default_k))
    if len(set(said.values())) > 1:
        every = ", ".join(f"{name} says {value}" for name, value in said.items())
        raise InvalidRequest(field, f"the number of candidates is not clear: {every}")
    check_count(field, k, server.settings.max_k)
    return k


def _k_of_id(server: Server, model: str) -> int | None:
    if model == server.name:
        return None
    prefix = f"{server.name}:"
    if not model.startswith(prefix):
        message = f"model: {shown(model)} is not served here, {server.name} is"
        raise Problem(404, message, "model", "model_not_found")
    method = _METHOD.fullmatch(model.removeprefix(prefix))
    if method is None:
        known = f"{prefix}selfref@k"
        raise InvalidRequest("model", f"{shown(model)} names no method; {known} is one")
    return int(method[1])


def plain_params(
    server: Server, body: Generating, wanted: Wanted, default: int | None = None
) -> SamplingParams:
    """The parameters of a plain answer; `default` is its `max_tokens` if it gives no limit.

    Raises:
        InvalidRequest: a value is out of range.
    """
    limit = stream_limit(server.settings, body.max_tokens)
    if body.max_completion_tokens is not None:
        limit = _least(budget_share(body.max_completion_tokens, body.n), limit)
    elif body.max_tokens is None and default is not None:
        limit = _least(default, limit)
    return body.sampling(
        n=body.n,
        seed=body.seed,
        max_tokens=limit,
        top_logprobs=wanted.logprobs,
        timeout=wanted.timeout,
        priority=-body.priority,
        cache_salt=wanted.cache_salt,
    )


def refinement_job(
    server: Server,
    body: Generating,
    k: int,
    problem: Stated,
    wanted: Wanted,
    *,
    chat: bool,
    number: int = 0,
) -> Job:
    """selfRef@k of a problem, as a job. It renders a prompt: not for the event loop.

    A chat takes another template where the checkpoint names none. `number` is which problem of the
    request this is.

    Raises:
        InvalidRequest: a value is out of range, or contradicts another.
    """
    gsr = body.gsr or Refinement()
    client_name = partial(_client_name, gsr=gsr, chat=chat)
    try:
        params = _params(server, body, gsr, k, wanted)
        if chat and params.template is None and not server.engine.maker.gsr.names_template:
            params = replace(params, template=CHAT_TEMPLATE)
        prompts = server.engine.maker.prompts.templated(params.template).varied(wanted.variables)
        if gsr.refinements is not None and not prompts.gsr.template.answer_form:
            raise InvalidRequest("refinements", "is a vote, and the template states no answer form")
    except InvalidRequest as error:
        raise renamed(error, client_name(error.field)) from None
    voted, given = gsr.refinements is not None, gsr.candidates is not None
    choices = 1 if voted else body.n
    narrator = RefinedNarrator(
        Answers(Thinking(prompts), number * choices),
        prompts=prompts,
        mode=gsr.stream if body.stream or gsr.stream == "final" else "phases",
        k=k,
        widths=params.round_widths,
        voted=voted,
        given=given,
    )
    events = partial(
        server.engine.self_refine,
        problem,
        params,
        candidates=gsr.candidates,
        wait=False,
        coalesce=body.coalesce,
    )
    return Job(events, narrator, "selfref", k, choices, given, client_name)


def _params(
    server: Server, body: Generating, gsr: Refinement, k: int, wanted: Wanted
) -> SelfRefineParams:
    if gsr.refinements is not None and body.n > 1:
        raise InvalidRequest("refinements", "contradicts n: it asks for one answer by vote")
    named = {field.name for field in fields(SelfRefineParams)}
    chosen = gsr.model_dump(include=named - {"k", "candidate"}, exclude_none=True)
    chosen["refinements"] = gsr.refinements or body.n
    for field in ("refinements", "widths"):
        check_count(field, max(_as_list(chosen.get(field, 1))), server.settings.max_n)
    if gsr.candidate_timeout is not None:
        check_seconds("candidate_timeout", gsr.candidate_timeout)
    params = SelfRefineParams(
        k=k,
        seed=body.seed,
        candidate=_candidate(body, gsr),
        refine=body.sampling(temperature=_temperature(body), top_logprobs=wanted.logprobs),
        timeout=wanted.timeout,
        priority=-body.priority,
        cache_salt=wanted.cache_salt,
        chat_template_kwargs=wanted.variables,
        **chosen,
    )
    most = max((k, *params.widths))
    if params.subset is not None and params.subset > most:
        raise InvalidRequest("subset", f"{params.subset} is more than a round can read: {most}")
    return _within_budget(server, body, params, generated=0 if gsr.candidates is not None else k)


def _as_list(value: Any) -> list[int]:
    return [1, *(value if isinstance(value, list) else [value])]


def _temperature(body: Generating) -> float | None:
    """A single refinement is greedy unless told otherwise; several greedy ones would be alike."""
    if body.temperature is None and body.n == 1 and not (body.gsr and body.gsr.refinements):
        return 0.0
    return body.temperature


def _candidate(body: Generating, gsr: Refinement) -> SamplingParams:
    """How candidates are drawn stands in `gsr.candidate` alone; what ends a stream is for both."""
    own = gsr.candidate
    try:
        return SamplingParams(**{**body.ending(), **own.ending(), **own.drawing()})
    except InvalidRequest as error:
        is_own = getattr(own, error.field, None) is not None
        raise renamed(error, f"candidate.{error.field}" if is_own else error.field) from None


def _within_budget(
    server: Server, body: Generating, params: SelfRefineParams, generated: int
) -> SelfRefineParams:
    """The parameters with the limits of every stream.

    `max_completion_tokens` bounds all streams together. Each gets an equal share. What a limit of
    its own takes from the share of one kind goes to the other.

    Raises:
        InvalidRequest: a limit is out of range, or the budget is too small for the streams.
    """
    refined = sum(params.round_widths)
    candidate = stream_limit(server.settings, params.candidate.max_tokens)
    refine = stream_limit(server.settings, params.refine.max_tokens)
    budget = body.max_completion_tokens
    if budget is not None:
        share = budget_share(budget, generated + refined)
        own = candidate is not None and candidate < share
        if own and candidate is not None:
            refine = _least((budget - generated * candidate) // refined, refine)
        else:
            refine = _least(share, refine)
            left = budget - refined * refine
            candidate = _least(left // generated, candidate) if generated else candidate
    return replace(
        params,
        candidate=replace(params.candidate, max_tokens=candidate),
        refine=replace(params.refine, max_tokens=refine),
    )


def budget_share(budget: int, streams: int) -> int:
    """The tokens of each of so many streams.

    Raises:
        InvalidRequest: there is none for each.
    """
    if budget < streams:
        raise InvalidRequest(
            "max_completion_tokens",
            f"{budget} is too few for {streams} streams: at least {streams}",
        )
    return budget // streams


def _least(share: int, limit: int | None) -> int:
    return share if limit is None else min(share, limit)


def _client_name(field: str, *, gsr: Refinement, chat: bool) -> str:
    """What a client calls a field of `SelfRefineParams`, or an argument of `self_refine`."""
    if field == "problem":
        return "messages" if chat else "prompt"
    if field == "k" and gsr.k is None:
        return "model"
    if field == "refinements" and gsr.refinements is None:
        return "n"
    inside = field.split(".")[0] in Refinement.model_fields
    return f"gsr.{field}" if inside else field
