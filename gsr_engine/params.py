"""The parameters of a request, each checked against its range when it is created.

Limits that depend on the engine (context length, pool size, vocabulary) are checked at submission,
in `gsr_engine.requests`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsIndex, get_args

from gsr_engine.errors import (
    InvalidRequest,
    as_int,
    check_bool,
    check_choice,
    check_float,
    check_int,
    shown,
)
from gsr_engine.repetition import RepetitionDetectionParams

MAX_CANDIDATES = 256
"""Upper limit of `n` and `k`, because a small request creates this many streams."""

Layout = Literal["linear", "branched"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
View = Literal["summary", "full"]
Order = Literal["shuffled", "as_generated", "as_finished"]

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 1000
MAX_STOP_TOKEN_IDS = 1024
MAX_TOP_LOGPROBS = 20
MAX_TIMEOUT = 1e9
"""Seconds: thirty years."""


def _keep(params: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass, while it is created."""
    object.__setattr__(params, name, value)


def _keep_int(params: object, name: str, low: int, high: int, optional: bool = False) -> None:
    """Check an integer field, and keep it as an int."""
    value = getattr(params, name)
    if value is not None or not optional:
        _keep(params, name, check_int(name, value, low, high))


def _keep_float(params: object, name: str, low: float, high: float, optional: bool = False) -> None:
    """Check a number, and keep it as a float."""
    value = getattr(params, name)
    if value is not None or not optional:
        _keep(params, name, check_float(name, value, low, high))


def _as_tuple(value: object, single: type) -> tuple[Any, ...] | None:
    """None is nothing, a single one stands for a tuple of it; None for what is no collection."""
    if value is None:
        return ()
    if isinstance(value, tuple | list | set | frozenset):
        return tuple(value)
    return (value,) if isinstance(value, single) else None


def _check_queueing(params: SamplingParams | SelfRefineParams) -> None:
    _keep_float(params, "timeout", 0.0, MAX_TIMEOUT, optional=True)
    _keep_int(params, "priority", -1000, 1000)
    if not isinstance(params.cache_salt, str):
        raise InvalidRequest("cache_salt", f"must be text, got {shown(params.cache_salt)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn and when a stream ends.

    Penalties and `min_tokens` change the logits before temperature and truncation. The reported
    log-probabilities stay those of the model: temperature 1, not truncated, not penalised.

    Where `temperature`, `top_k`, `top_p`, `min_p` and `repetition_penalty` are None, an engine uses
    what the checkpoint's generation_config.json states, or else 1, 0, 1, 0 and 1. The option
    `generation_config` of `Engine.from_pretrained` says whether the file is read. The `params` of a
    result hold the numbers that were used.

    Attributes:
        n: streams per prompt; they share the prompt's KV.
        temperature: 0 takes the most likely token (the lowest id on a tie) and ignores top_k,
            top_p, min_p and seed.
        top_k: keep the k most likely tokens; 0 (or -1) keeps all.
        top_p: keep the smallest set of tokens whose probability reaches top_p; 1 keeps all.
        min_p: drop tokens below min_p times the largest probability; 0 drops none.
        repetition_penalty: applies to every token that the stream drew or that its context
            contains. A positive logit is divided by it, a negative one multiplied (CTRL, arXiv
            1909.05858). 1 is off.
        presence_penalty: subtracted from the logit of every token that the stream drew.
        frequency_penalty: subtracted once for each time that the stream drew the token.
        max_tokens: most generated tokens per stream. None takes all that the context leaves behind
            the prompt, which may take hours on a CPU. A stream ends where the context ends, also if
            it is given. A request that the KV pool cannot hold is refused.
        min_tokens: until this many tokens are generated, end tokens cannot be sampled and
            completed stop strings are ignored.
        seed: the same seed gives the same tokens, independent of other requests; None draws a new
            seed.
        stop: strings that end a stream, wherever they begin or end inside tokens. The text ends
            before the string. A single text and None are taken, too; it is kept as a tuple.
        stop_token_ids: token ids that end a stream, besides the checkpoint's own end tokens; 1,024
            at most. A single id and None are taken, too; it is kept as a tuple.
        ignore_eos: the checkpoint's own end tokens do not end a stream.
        repetition_detection: ends a stream that has run into a loop, with finish reason
            "repetition"; None lets it run on. `min_tokens` holds for it, too.
        top_logprobs: report this many of the most likely tokens beside each drawn token.
        prompt_logprobs: report the log-probability of each token of the prompt, and this many of
            the most likely tokens in its place; 0 reports the tokens of the prompt alone. The whole
            prompt is then computed: the prefix cache is written, but not read. None is off.
        timeout: seconds from submission after which the request ends with the tokens so far, and
            its unfinished streams with finish reason "timeout". It is an error only if there is no
            token yet. An `AsyncEngine` counts from the call. None for never.
        priority: a request is queued as if it had arrived 64 places earlier per level.
        cache_salt: the prefix cache is shared only among requests with the same salt.
    """

    n: int = 1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | None = None
    min_tokens: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    repetition_detection: RepetitionDetectionParams | None = None
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    timeout: float | None = None
    priority: int = 0
    cache_salt: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        _keep_int(self, "n", 1, MAX_CANDIDATES)
        _keep_float(self, "temperature", 0.0, 100.0, optional=True)
        if as_int(self.top_k) == -1:
            _keep(self, "top_k", 0)
        _keep_int(self, "top_k", 0, 2**31 - 1, optional=True)
        _keep_float(self, "top_p", 0.0, 1.0, optional=True)
        if self.top_p == 0.0:
            raise InvalidRequest("top_p", "must be above 0, got 0 (for greedy use temperature=0)")
        _keep_float(self, "min_p", 0.0, 1.0, optional=True)
        # Beyond these bounds a logit would leave the range of fp32.
        _keep_float(self, "repetition_penalty", 0.01, 100.0, optional=True)
        _keep_float(self, "presence_penalty", -2.0, 2.0)
        _keep_float(self, "frequency_penalty", -2.0, 2.0)
        _keep_int(self, "seed", 0, 2**63 - 1, optional=True)
        _keep_int(self, "top_logprobs", 0, MAX_TOP_LOGPROBS)
        _keep_int(self, "prompt_logprobs", 0, MAX_TOP_LOGPROBS, optional=True)
        _check_queueing(self)
        self._check_length()
        self._check_stops()

    def _check_length(self) -> None:
        _keep_int(self, "min_tokens", 0, 2**31 - 1)
        _keep_int(self, "max_tokens", 1, 2**31 - 1, optional=True)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                "min_tokens", f"{self.min_tokens} is above max_tokens {self.max_tokens}"
            )

    def _check_stops(self) -> None:
        check_bool("ignore_eos", self.ignore_eos)
        loops = self.repetition_detection
        if not isinstance(loops, RepetitionDetectionParams | None):
            raise InvalidRequest(
                "repetition_detection", f"must be RepetitionDetectionParams, got {shown(loops)}"
            )
        stop, ids = _as_tuple(self.stop, str), _as_tuple(self.stop_token_ids, SupportsIndex)
        if stop is None:
            raise InvalidRequest("stop", f"must be a text or some, got {shown(self.stop)}")
        if len(stop) > MAX_STOP_STRINGS:
            raise InvalidRequest("stop", f"{len(stop)} are more than {MAX_STOP_STRINGS}")
        for text in stop:
            if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
                raise InvalidRequest(
                    "stop", f"must be texts of 1 to {MAX_STOP_LENGTH} characters, got {shown(text)}"
                )
        if ids is None:
            raise InvalidRequest(
                "stop_token_ids", f"must be a token id or some, got {shown(self.stop_token_ids)}"
            )
        if len(ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequest("stop_token_ids", f"{len(ids)} are more than {MAX_STOP_TOKEN_IDS}")
        _keep(self, "stop", stop)
        kept = tuple(check_int("stop_token_ids", token, 0, 2**31 - 1) for token in ids)
        _keep(self, "stop_token_ids", kept)

    @property
    def draw_numbers(self) -> tuple[float, int, float, float]:
        """Temperature, top_k, top_p and min_p of a draw; each must be given."""
        temperature, top_k, top_p, min_p = self.temperature, self.top_k, self.top_p, self.min_p
        if temperature is None or top_k is None or top_p is None or min_p is None:
            raise TypeError(f"{self} must have numbers")
        return temperature, top_k, top_p, min_p

    @property
    def penalises(self) -> bool:
        """Whether a penalty is on."""
        off = self.repetition_penalty in (None, 1.0)
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
    `k=n, widths=(n,) * (t - 2), subset=m` is recursive self-aggregation with t populations (arXiv
    2509.26626), of the last of which one is written. `gsr_engine.program` has such published ones.

    Attributes:
        k: candidates per problem.
        layout: "linear" prefills the candidates' summaries again after the problem. "branched"
            attends to the candidates' KV as it was generated, and needs a checkpoint trained for
            it; solutions of earlier refinements are prefilled again in every layout.
        candidate: sampling of the candidates (`n` must be 1: `k` says how many). Where its
            temperature, top_k and top_p are None, candidates draw at 1, 0 and 1, whatever the
            checkpoint states: the method asks for different solutions.
        refine: sampling of the refinements; greedy by default. Where its repetition_penalty is
            None there is none: it would count against what a refinement reads and is to repeat.
        seed: seeds candidates, orders and refinements. The seeds inside `candidate` and `refine`
            must be None.
        view: show a refinement the "summary" of a solution (the text after its thinking) or its
            "full" text.
        summary_tokens: most tokens of a solution that are shown. A longer one keeps its end, where
            the answer is. It is less if the context has no room for so much of each solution;
            `summary_tokens` and `num_shortened` of the result say so.
        order: in which order a linear refinement reads the candidates: "shuffled" by the seed,
            "as_generated" (by index), or "as_finished". With the last, each candidate is prefilled
            as it finishes, while others still decode; so it is not for given candidates.
        min_candidates: if fewer candidates are usable, the request ends with an error.
        candidate_timeout: seconds from submission after which all candidates are stopped;
            unfinished ones are shown as far as they got.
        timeout: seconds from submission after which the request ends with the refinement so far;
            see `SamplingParams.timeout`. It is an error only if the last round has no token yet.
            The timeouts inside `candidate` and `refine` must be None.
        agreement: once this many finished candidates state the same answer, the others are stopped
            and left out; 0 waits for all. Neither this nor `first` is for given candidates.
        first: once this many candidates have ended by themselves with something to show, the others
            are stopped and left out (First Finish Search, arXiv 2505.18149); 0 waits for all. One
            that `max_tokens` or the context cut does not count, but is shown; so is one that ends
            in the same step as the last that counts. `agreement` and `candidate_timeout` may end
            the wait sooner. Which are first may depend on what else the engine does, as with
            `candidate_timeout` and `as_finished`.
        widths: refinements in each round before the last.
        subset: how many solutions of the round before each refinement reads, drawn by the seed;
            None reads all, and so does a number that is not below theirs.
        refinements: refinements in the last round; the majority of their answers wins. Where the
            template asks for no form of answer there is no vote, and the first is the result.
        force_layout: use a layout that the checkpoint was not trained for.
        template: prompts of this request by the name of a built-in template: agglm, gsr, pacore,
            plain, restated, rsa. None takes the engine's. Those that ask for no form of answer
            (plain) have no `answer`, and neither votes nor agreement.
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
    candidate_timeout: float | None = None
    timeout: float | None = None
    agreement: int = 0
    first: int = 0
    widths: tuple[int, ...] = ()
    subset: int | None = None
    refinements: int = 1
    force_layout: bool = False
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0
    cache_salt: str = ""

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range or a contradiction."""
        _keep_int(self, "k", 1, MAX_CANDIDATES)
        if not isinstance(self.template, str | None):
            raise InvalidRequest("template", f"must be a name, got {shown(self.template)}")
        check_choice("layout", self.layout, LAYOUTS)
        check_choice("view", self.view, get_args(View))
        check_choice("order", self.order, get_args(Order))
        _keep_int(self, "seed", 0, 2**63 - 1, optional=True)
        _keep_int(self, "summary_tokens", 1, 2**31 - 1)
        _keep_int(self, "min_candidates", 1, self.k)
        _keep_float(self, "candidate_timeout", 0.0, MAX_TIMEOUT, optional=True)
        _keep_int(self, "agreement", 0, self.k)
        self._check_first()
        self._check_rounds()
        check_bool("force_layout", self.force_layout)
        variables = self.chat_template_kwargs
        if not isinstance(variables, Mapping) or not all(isinstance(k, str) for k in variables):
            raise InvalidRequest(
                "chat_template_kwargs", f"must be a dict by name, got {shown(variables)}"
            )
        _check_queueing(self)
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
            if params.timeout is not None:
                raise InvalidRequest(
                    f"{name}.timeout", "must be None: SelfRefineParams has timeouts of its own"
                )
            if params.prompt_logprobs is not None:
                raise InvalidRequest(
                    f"{name}.prompt_logprobs", "must be None: only the prompt of generate has them"
                )

    def _check_first(self) -> None:
        _keep_int(self, "first", 0, self.k)
        for name in ("min_candidates", "agreement"):
            needed = getattr(self, name)
            if 0 < self.first < needed:
                raise InvalidRequest(
                    "first", f"{self.first} candidates are too few for {name} {needed}"
                )

    def _check_rounds(self) -> None:
        if not isinstance(self.widths, tuple | list):
            raise InvalidRequest("widths", f"must be a tuple of integers, got {shown(self.widths)}")
        widths = tuple(check_int("widths", width, 1, MAX_CANDIDATES) for width in self.widths)
        _keep(self, "widths", widths)
        _keep_int(self, "refinements", 1, MAX_CANDIDATES)
        _keep_int(self, "subset", 1, MAX_CANDIDATES, optional=True)
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
