"""What clients ask over HTTP: the parameters of the engine's actions as bodies, and nonsense."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from gsr_engine import SamplingParams, SelfRefineParams

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
MOST_BODY = 50_000
"""The server's `max_body_bytes`."""


@dataclass(frozen=True, slots=True)
class Question:
    """One HTTP request, and what may be answered.

    Attributes:
        name: what it is, for the log.
        body: what is posted.
        choices: how many the answer has; 0 for nonsense.
        path, method, headers: as in HTTP.
        statuses: of an answer; 503 is always one.
        prompt, params: what the engine is asked for, if another one can be asked for the same.
    """

    name: str
    body: bytes
    choices: int = 0
    path: str = TEXT
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    statuses: frozenset[int] = frozenset({200, 400})
    prompt: tuple[int, ...] = ()
    params: SamplingParams | None = None

    @property
    def raw(self) -> bytes:
        """As it goes over the wire, on a connection of its own."""
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            "Host: chaos",
            "Connection: close",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def plain(prompt: list[int], params: SamplingParams, rng: Random) -> Question:
    """A completion of token ids; its answer has the ids of its tokens."""
    body = {
        "prompt": prompt,
        **_sampling(params),
        **_queueing(params),
        **_manner(rng),
        "n": params.n,
        "seed": params.seed,
        "return_token_ids": True,
        "echo": params.prompt_logprobs is not None,
        "logprobs": params.prompt_logprobs,
    }
    return Question("plain", _dumped(body), params.n, prompt=tuple(prompt), params=params)


def refined(
    problem: str, params: SelfRefineParams, given: Sequence[str | list[int]] | None, rng: Random
) -> Question:
    """selfRef@k of a problem; several refinements are put to a vote, or each is a choice."""
    voted = params.refinements > 1 and rng.random() < 0.5
    gsr = {
        **{name: getattr(params, name) for name in _ALIKE},
        "candidate": _sampling(params.candidate),
        "widths": list(params.widths),
        "stream": rng.choice(("final", "phases", "all")),
        "k": params.k if given is None else None,
        "candidates": given,
        "refinements": params.refinements if voted else None,
        # Over HTTP a subset that no round can fill is refused.
        "subset": params.subset and min(params.subset, max(params.k, *params.widths, 1)),
    }
    body = {
        **_sampling(params.refine),
        **_queueing(params),
        **_manner(rng),
        "gsr": gsr,
        "seed": params.seed,
        "n": 1 if voted else params.refinements,
    }
    path = rng.choice((CHAT, TEXT))
    if path == CHAT:
        body["messages"] = [{"role": "user", "content": problem}]
    else:
        body["prompt"] = problem
    return Question("refined", _dumped(body), body["n"], path)


_ALIKE = (
    *("layout", "view", "order", "summary_tokens", "min_candidates", "candidate_timeout"),
    *("agreement", "first", "template"),
)


def _sampling(params: SamplingParams) -> dict[str, Any]:
    loops = params.repetition_detection
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "repetition_detection": None if loops is None else asdict(loops),
    }


def _queueing(params: SamplingParams | SelfRefineParams) -> dict[str, Any]:
    names = {"timeout": params.timeout, "cache_salt": params.cache_salt}
    return {**names, "priority": -params.priority}  # over HTTP lower is earlier


def _manner(rng: Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {}
    options = {name: rng.random() < 0.5 for name in ("include_usage", "continuous_usage_stats")}
    return {"stream": True, "stream_options": options}


def _dumped(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body).encode()


def nonsense(rng: Random) -> Question:
    """A malformed body, an absurd number, or a wrong address."""
    name, question = rng.choice(_NONSENSE)
    if isinstance(question, Question):
        return question
    if isinstance(question, bytes):
        return Question(name, question, statuses=frozenset({400}))
    body = {"prompt": "1*2", "max_tokens": 4, **question}
    return Question(name, _dumped(body), statuses=frozenset({400}))


def _other(name: str, status: int, body: bytes = b"{}", **fields: Any) -> tuple[str, Question]:
    return name, Question(name, body, statuses=frozenset({status}), **fields)


_PROMPT = b'{"prompt": "1*2", "max_tokens": 4}'
_NONSENSE: tuple[tuple[str, Question | bytes | dict[str, Any]], ...] = (
    ("half a JSON", b'{"prompt": "1'),
    ("no body", b""),
    ("no object", b"[]"),
    ("no UTF-8", b'{"prompt": "\xff\xfe"}'),
    ("deep", b"[" * 20_000),
    ("a long number", b'{"prompt": "1", "max_tokens": ' + b"9" * 6_000 + b"}"),
    ("infinite", b'{"prompt": "1", "temperature": 1e999}'),
    ("not a number", b'{"prompt": "1", "temperature": NaN}'),
    ("k is 0", {"gsr": {"k": 0}}),
    ("k is negative", {"gsr": {"k": -4}}),
    ("k is huge", {"gsr": {"k": 10**9}}),
    ("k is above the cap", {"gsr": {"k": 65}}),
    ("k of the id is above the cap", {"model": "nano:selfref@9999"}),
    ("k and the id contradict", {"model": "nano:selfref@2", "gsr": {"k": 3}}),
    ("a method that is none", {"model": "nano:magic@2"}),
    ("n is 0", {"n": 0}),
    ("n is huge", {"n": 10**12}),
    ("n is above the cap", {"n": 65}),
    ("widths are huge", {"gsr": {"k": 2, "widths": [10**9]}}),
    ("widths are many", {"gsr": {"k": 2, "widths": [1] * 1000}}),
    ("max_tokens is above all", {"max_tokens": 2**40}),
    ("max_tokens is negative", {"max_tokens": -1}),
    ("too small a budget", {"gsr": {"k": 4}, "max_completion_tokens": 4}),
    ("priority is huge", {"priority": 10**6}),
    ("seed is negative", {"seed": -1}),
    ("a time limit of 0", {"timeout": 0}),
    ("no such field", {"temprature": 1.0}),
    ("wrong type", {"max_tokens": "four"}),
    ("unknown token", {"prompt": [10**6]}),
    ("negative token", {"prompt": [-1]}),
    ("no prompt", {"prompt": []}),
    ("an empty prompt in a batch", {"prompt": [[7], []]}),
    ("more prompts than fit", {"prompt": ["1"] * 2000}),
    ("too long a prompt", {"prompt": [7] * 5000}),
    ("too many stop strings", {"stop": ["a"] * 100}),
    ("tools", {"tools": [{"type": "function"}]}),
    ("options without a stream", {"stream_options": {"include_usage": True}}),
    ("no such template", {"gsr": {"k": 2, "template": "none"}}),
    ("candidates and k contradict", {"gsr": {"k": 3, "candidates": ["1"]}}),
    ("wrong header", Question("wrong header", _PROMPT, headers=(("X-Request-Timeout", "soon"),))),
    _other("too large", 413, b'{"prompt": "' + b"1" * MOST_BODY + b'"}'),
    _other("unknown model", 404, b'{"model": "gpt", "prompt": "1"}'),
    _other("unknown path", 404, path="/v1/images/generations"),
    _other("wrong method", 405, method="PUT"),
)
