"""The parameters of a request, each checked against its range when it is created.

Limits that depend on the engine (context length, pool size, vocabulary) are checked at submission,
in `gsr_engine.requests`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from gsr_engine.errors import (
    InvalidRequest,
    check_bool,
    check_choice,
    check_float,
    check_int,
    shown,
)

MAX_CANDIDATES = 256
"""Upper limit of `n` and `k`, because a small request creates this many streams."""

Layout = Literal["linear", "branched"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ItemT = TypeVar("ItemT")
ParamsT = TypeVar("ParamsT")
View = Literal["summary", "full"]
Order = Literal["shuffled", "as_generated", "as_finished"]

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 1000
MAX_TOP_LOGPROBS = 20


def _check_queueing(priority: object, cache_salt: object) -> None:
    check_int("priority", priority, -1000, 1000)
    if not isinstance(cache_salt, str):
        raise InvalidRequest("cache_salt", f"must be text, got {shown(cache_salt)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn and when a stream ends.

    Penalties and `min_tokens` change the logits before temperature and truncation. The reported
    log-probabilities stay those of the model: temperature 1, not truncated, not penalised.

    Attributes:
        n: streams per prompt; they share the prompt's KV.
        temperature: 0 takes the most likely token (the lowest id on a tie) and ignores top_k,
            top_p, min_p and seed.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1 keeps all.
        min_p: drop tokens below min_p times the largest probability; 0 drops none.
        repetition_penalty: applies to every token that the stream drew or that its context
            contains. A positive logit is divided by it, a negative one multiplied (CTRL, arXiv
            1909.05858). 1 is off.
        presence_penalty: subtracted from the logit of every token that the stream drew.
        frequency_penalty: subtracted once for each time that the stream drew the token.
        max_tokens: most generated tokens per stream. None takes the room that the context leaves,
            and at most an even share of the KV pool.
        min_tokens: until this many tokens are generated, end tokens cannot be sampled and
            completed stop strings are ignored.
        seed: the same seed gives the same tokens, independent of other requests; None draws a new
            seed.
        stop: strings that end a stream, wherever they begin or end inside tokens. The text ends
            before the string.
        stop_token_ids: token ids that end a stream, besides the checkpoint's own end tokens.
        ignore_eos: the checkpoint's own end tokens do not end a stream.
        top_logprobs: report this many of the most likely tokens beside each drawn token.
        priority: a request is queued as if it had arrived 64 places earlier per level.
        cache_salt: the prefix cache is shared only among requests with the same salt.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = None
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int = 0
    priority: int = 0
    cache_salt: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        check_int("n", self.n, 1, MAX_CANDIDATES)
        check_float("temperature", self.temperature, 0.0, 100.0)
        check_int("top_k", self.top_k, 0, 2**31 - 1)
        check_float("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p", "must be above 0, got 0 (for greedy use temperature=0)")
        check_float("min_p", self.min_p, 0.0, 1.0)
        # Beyond these bounds a logit would leave the range of fp32.
        check_float("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        check_float("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_float("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            check_int("seed", self.seed, 0, 2**63 - 1)
        check_int("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        _check_queueing(self.priority, self.cache_salt)
        self._check_length()
        self._check_stops()

    def _check_length(self) -> None:
        check_int("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is None:
            return
        check_int("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                "min_tokens", f"{self.min_tokens} is above max_tokens {self.max_tokens}"
            )

    def _check_stops(self) -> None:
        check_bool("ignore_eos", self.ignore_eos)
        if not isinstance(self.stop, tuple | list):
            raise InvalidRequest("stop", f"must be a tuple of texts, got {shown(self.stop)}")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest("stop", f"{len(self.stop)} are more than {MAX_STOP_STRINGS}")
        for text in self.stop:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
                raise InvalidRequest(
                    "stop", f"must be texts of 1 to {MAX_STOP_LENGTH} characters, got {shown(text)}"
                )
        if not isinstance(self.stop_token_ids, tuple | list | set | frozenset):
            raise InvalidRequest(
                "stop_token_ids", f"must be a tuple of token ids, got {shown(self.stop_token_ids)}"
            )
        for token in self.stop_token_ids:
            check_int("stop_token_ids", token, 0, 2**31 - 1)

    @property
    def penalises(self) -> bool:
        """Whether a penalty is on."""
        off = self.repetition_penalty == 1.0
        return not (off and self.presence_penalty == 0.0 and self.frequency_penalty == 0.0)

    @property
    def edits_logits(self) -> bool:
        """Whether penalties or `min_tokens` change the logits before the draw."""
        return self.penalises or self.min_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfRefineParams:
    """selfRef@k: k candidates in parallel, then a refinement that reads them.

    `widths` adds rounds of refinements in between. Each refinement writes a solution from those it
    reads, and the next round reads these. `k=32, widths=(4,)` is a width schedule of 32, 4, 1.
    `k=n, widths=(n,) * (t - 1), subset=m` is recursive self-aggregation (arXiv 2509.26626).

    Attributes:
        k: candidates per problem.
        layout: "linear" prefills the candidates' summaries again after the problem. "branched"
            attends to the candidates' KV as it was generated, and needs a checkpoint trained for
            it; solutions of earlier refinements are prefilled again in every layout.
        candidate: sampling of the candidates (`n` must be 1: `k` says how many).
        refine: sampling of the refinements; greedy by default.
        seed: seeds candidates, orders and refinements. The seeds inside `candidate` and `refine`
            must be None.
        view: show a refinement the "summary" of a solution (the text after its thinking) or its
            "full" text.
        summary_tokens: most tokens of a solution that are shown. A longer one keeps its end, where
            the answer is.
        order: in which order a linear refinement reads the candidates: "shuffled" by the seed,
            "as_generated" (by index), or "as_finished". With the last, each candidate is prefilled
            as it finishes, while others still decode; so it is not for given candidates.
        min_candidates: if fewer candidates are usable, the request ends with an error.
        deadline: seconds from submission after which all candidates are stopped; unfinished ones
            are shown as far as they got.
        agreement: once this many finished candidates state the same answer, the others are stopped
            and left out; 0 waits for all.
        widths: refinements in each round before the last.
        subset: how many solutions of the round before each refinement reads, drawn by the seed;
            None reads all.
        refinements: refinements in the last round; the majority of their answers wins.
        force_layout: use a layout that the checkpoint was not trained for.
        chat_template_kwargs: variables of the chat template, e.g. `{"enable_thinking": False}`,
            besides those of `gsr.json`.
        priority, cache_salt: as in `SamplingParams`; those inside `candidate` and `refine` are
            ignored.
    """

    k: int = 4
    layout: Layout = "linear"
    candidate: SamplingParams = field(default_factory=SamplingParams)
    refine: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0))
    seed: int | None = None
    view: View = "summary"
    summary_tokens: int = 1000
    order: Order = "shuffled"
    min_candidates: int = 1
    deadline: float | None = None
    agreement: int = 0
    widths: tuple[int, ...] = ()
    subset: int | None = None
    refinements: int = 1
    force_layout: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    cache_salt: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range or a contradiction."""
        check_int("k", self.k, 1, MAX_CANDIDATES)
        check_choice("layout", self.layout, LAYOUTS)
        check_choice("view", self.view, get_args(View))
        check_choice("order", self.order, get_args(Order))
        if self.seed is not None:
            check_int("seed", self.seed, 0, 2**63 - 1)
        check_int("summary_tokens", self.summary_tokens, 1, 2**31 - 1)
        check_int("min_candidates", self.min_candidates, 1, self.k)
        if self.deadline is not None:
            check_float("deadline", self.deadline, 0.0, 1e9)
        check_int("agreement", self.agreement, 0, self.k)
        self._check_rounds()
        check_bool("force_layout", self.force_layout)
        _check_queueing(self.priority, self.cache_salt)
        for name, params in (("candidate", self.candidate), ("refine", self.refine)):
            if not isinstance(params, SamplingParams):
                raise InvalidRequest(name, f"must be SamplingParams, got {shown(params)}")
            if params.n != 1:
                raise InvalidRequest(
                    f"{name}.n", f"must be 1 (k says how many candidates), got {params.n}"
                )
            if params.seed is not None:
                raise InvalidRequest(
                    f"{name}.seed", "must be None: SelfRefineParams.seed derives it"
                )

    def _check_rounds(self) -> None:
        if not isinstance(self.widths, tuple | list):
            raise InvalidRequest("widths", f"must be a tuple of integers, got {shown(self.widths)}")
        for width in self.widths:
            check_int("widths", width, 1, MAX_CANDIDATES)
        check_int("refinements", self.refinements, 1, MAX_CANDIDATES)
        if self.subset is not None:
            check_int("subset", self.subset, 1, MAX_CANDIDATES)
        if self.order == "as_finished":
            if self.layout != "linear":
                raise InvalidRequest("order", "as_finished is for the linear layout only")
            if self.widths or self.subset is not None:
                raise InvalidRequest("order", "as_finished contradicts widths and subset")

    @property
    def round_widths(self) -> tuple[int, ...]:
        """Refinements of every round, the last included."""
        return (*self.widths, self.refinements)

    @property
    def most_shown(self) -> int:
        """The largest number of solutions that one refinement reads."""
        most = max(self.k, *self.round_widths[:-1]) if self.widths else self.k
        return most if self.subset is None else min(most, self.subset)


def one_each(
    field: str,
    items: Sequence[ItemT],
    params: ParamsT | Sequence[ParamsT] | None,
    kind: type[ParamsT],
) -> list[tuple[ItemT, ParamsT]]:
    """Pair every item with its parameters: one for all (the default if None), or one for each.

    Raises:
        InvalidRequest: `items` is a single text or no collection, or `params` has another type or
            length.
    """
    if isinstance(items, str):
        raise InvalidRequest(field, "must be a list; for a single one pass [text]")
    if not isinstance(items, Collection):
        raise InvalidRequest(field, f"must be a list, got {shown(items)}")
    if params is None or isinstance(params, kind):
        params = [kind() if params is None else params] * len(items)
    if not isinstance(params, Sequence) or not all(isinstance(one, kind) for one in params):
        raise InvalidRequest(
            "params", f"must be {kind.__name__} or a list of them, got {shown(params)}"
        )
    if len(params) != len(items):
        raise InvalidRequest("params", f"{len(params)} of them for {len(items)} {field}")
    return list(zip(items, params, strict=True))
