"""Measures selfRef@k of one engine at fixed lengths: speed, phases, memory, and limits beside.

End tokens are barred up to the wanted length, so that a real checkpoint writes it, too. The engine
has no prefix cache: with one, a case would find the KV of the case before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.engine import Engine
from gsr_engine.errors import InvalidRequest, check_int
from gsr_engine.outputs import RefineResult, Usage
from gsr_engine.params import LAYOUTS, MAX_CANDIDATES, Layout, SamplingParams, SelfRefineParams
from gsr_engine.requests.self_refine import SelfRefineRequest
from gsr_engine.speed.machine_limits import StepProducts

_SEED = 1
_PROBE_TOKENS = 4
_MOST_TOKENS = 1 << 20
_MOST_PROBLEMS = 1 << 12


class Lengths(NamedTuple):
    """Tokens of a problem's text, of each candidate, and of the refinement."""

    problem: int
    candidate: int
    refine: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is measured: every k in both layouts.

    Raises:
        InvalidRequest: a value is out of range.
    """

    ks: Sequence[int]
    tokens: Lengths
    problems: int = 1

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if not self.ks:
            raise InvalidRequest("k", "is empty")
        for k in self.ks:
            check_int("k", k, 1, MAX_CANDIDATES)
        for count, least in zip(self.tokens, (1, 2, 2), strict=True):
            check_int("tokens", count, least, _MOST_TOKENS)
        check_int("problems", self.problems, 1, _MOST_PROBLEMS)


class Case(NamedTuple):
    """One measurement."""

    k: int
    layout: Layout
    forced: bool
    """Whether the checkpoint does not claim the layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSpeed:
    """What one case took.

    Attributes:
        k, layout: the case.
        tokens: generated tokens of all problems.
        seconds: from the first submission to the last answer.
        tokens_per_second: `tokens` over `seconds`.
        answer_seconds: from the submission to the answer, the mean over the problems.
        prompt_tokens: of all direct prompts, templates included.
        phases: seconds by phase, its share of the steps by tokens.
        phase_tokens: tokens computed by phase.
        kv_peak_gib: most memory of KV pages at a time.
        steps: that these lengths need, if all problems run side by side.
        products_seconds: the matrix products of these steps alone.
        notes: what is particular about it.
    """

    k: int
    layout: Layout
    tokens: int
    seconds: float
    tokens_per_second: float
    answer_seconds: float
    prompt_tokens: int
    phases: dict[str, float]
    phase_tokens: dict[str, int]
    kv_peak_gib: float
    steps: int
    products_seconds: float
    notes: list[str] = field(default_factory=list)


class RefineSpeed:
    """The measurements of one engine.

    Args:
        engine: without a prefix cache; nobody else uses it meanwhile.
        work: what to measure.

    Attributes:
        cases: what `measure` takes, in order.

    Raises:
        InvalidRequest: a case does not fit the context or the pool, or the checkpoint cannot be
            asked in a layout.
    """

    def __init__(self, engine: Engine, work: Work) -> None:
        self._engine, self._work = engine, work
        self.cases = [
            Case(k, layout, layout not in engine.gsr.layouts)
            for k in dict.fromkeys(work.ks)
            for layout in LAYOUTS
        ]
        engine.limits.check_streams("problems", work.problems * max(work.ks))
        self._problems = [
            problem_text(engine.tokenizer, work.tokens.problem, index)
            for index in range(work.problems)
        ]
        for case in self.cases:
            self._requests(case, work.tokens)

    def estimate(self) -> float:
        """Seconds that all cases may take, after the first steps of the largest one."""
        work = self._work
        widest = Case(max(work.ks), self.cases[0].layout, self.cases[0].forced)
        probe = Lengths(work.tokens.problem, *[_PROBE_TOKENS] * 2)
        for _ in range(2):  # the first one warms up
            results = self._engine.run(self._requests(widest, probe))
        usage = _total(results)
        prefill = usage.phase("candidate_prefill")
        token = prefill.seconds / max(1, prefill.tokens_computed)
        wide, narrow = (
            usage.phase(name).seconds / (_PROBE_TOKENS - 1)
            for name in ("candidate_decode", "refine_decode")
        )
        _, candidate, refine = work.tokens
        found = 0.0
        for case in self.cases:
            share = (case.k - 1) / max(1, widest.k - 1)
            reread = case.k * candidate if case.layout == "linear" else 0
            found += token * (prefill.tokens_computed + work.problems * reread)
            found += candidate * (narrow + share * (wide - narrow)) + refine * narrow
        return found

    def measure(
        self,
        case: Case,
        products: StepProducts,
        on_step: Callable[[int], object] = lambda _: None,
    ) -> CaseSpeed:
        """Run one case; `on_step` is called after each step with the tokens written so far."""
        engine, pool = self._engine, self._engine.memory.pool
        requests = self._requests(case, self._work.tokens)
        pool.peak_used = pool.num_used  # of this case alone
        preempted = engine.stats()["preemptions"]
        answered: list[float] = []
        start = time.perf_counter()

        def count(finished: int) -> None:
            answered.extend([time.perf_counter() - start] * finished)
            on_step(_written(requests))

        results = engine.run(requests, count)
        seconds = time.perf_counter() - start
        usage = _total(results)
        tokens = usage.completion_tokens
        notes = _notes(case, results)
        if more := engine.stats()["preemptions"] - preempted:
            notes.append(f"preempted {more} times: the pool of KV pages is small")
        return CaseSpeed(
            k=case.k,
            layout=case.layout,
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds,
            answer_seconds=sum(answered) / max(1, len(answered)),
            prompt_tokens=usage.prompt_tokens,
            phases={name: phase.seconds for name, phase in usage.phases.items()},
            phase_tokens={name: phase.tokens_computed for name, phase in usage.phases.items()},
            kv_peak_gib=pool.peak_used * engine.limits.page_bytes / 2**30,
            # Each prefill draws the first tokens, each further step one more.
            steps=self._work.tokens.candidate + self._work.tokens.refine,
            products_seconds=self._products_seconds(case, usage, products),
            notes=notes,
        )

    def _products_seconds(self, case: Case, usage: Usage, products: StepProducts) -> float:
        """See `CaseSpeed.products_seconds`."""
        problems, (_, candidate, refine) = self._work.problems, self._work.tokens
        found = 0.0
        for name, streams, drawn in (
            ("candidate", problems * case.k, candidate),
            ("refine", problems, refine),
        ):
            prompt = usage.phase(f"{name}_prefill").tokens_computed  # type: ignore[arg-type]
            found += products.seconds(max(1, prompt), problems)
            found += (drawn - 1) * products.seconds(streams, streams)
        return found

    def _requests(self, case: Case, tokens: Lengths) -> list[SelfRefineRequest]:
        params = SelfRefineParams(
            k=case.k,
            layout=case.layout,
            force_layout=case.forced,
            candidate=_fixed(1.0, tokens.candidate),
            refine=_fixed(0.0, tokens.refine),
            seed=_SEED,
            view="full",  # of random text the thinking may never end
            summary_tokens=tokens.candidate,
        )
        try:
            return [
                self._engine.new_self_refine(problem, params, index=index)
                for index, problem in enumerate(self._problems)
            ]
        except InvalidRequest as error:
            raise InvalidRequest("tokens", f"k {case.k}, {case.layout}: {error}") from None


def problem_text(tokenizer: Tokenizer, tokens: int, seed: int) -> str:
    """A text of that many tokens, or of very few more or less; another one for each seed.

    Letters that the tokenizer does not know are left out.

    Raises:
        InvalidRequest: it knows nothing of the text.
    """
    numbers, ids = random.Random(seed), list[int]()
    while len(ids) < tokens:
        baskets, apples, sold = (numbers.randint(2, 99) for _ in range(3))
        sentence = (
            f"A farmer has {baskets} baskets with {apples} apples each, sells {sold} of them on a "
            "market day, and brings the others home. "
        )
        known = [one for one in tokenizer.encode_text(sentence) if tokenizer.spells(one)]
        if not known:
            raise InvalidRequest("tokens", "the tokenizer knows neither letters nor digits")
        ids += known
    return tokenizer.decode(ids[:tokens])


def _fixed(temperature: float, tokens: int) -> SamplingParams:
    return SamplingParams(temperature=temperature, max_tokens=tokens, min_tokens=tokens)


def _written(requests: Sequence[SelfRefineRequest]) -> int:
    streams = (one for request in requests for streams in request.rounds for one in streams)
    return sum(len(stream.segment) for stream in streams)


def _total(results: Sequence[RefineResult]) -> Usage:
    total = Usage()
    for result in results:
        total.add(result.usage)
    return total


def _notes(case: Case, results: Sequence[RefineResult]) -> list[str]:
    notes = []
    if case.forced:
        notes.append(f"the checkpoint does not claim the {case.layout} layout: it was forced")
    if any(result.num_shortened for result in results):
        least = min(result.summary_tokens for result in results)
        notes.append(f"the context has room for {least} tokens of a candidate")
    if error := next((result.error for result in results if result.error), None):
        notes.append(f"failed: {error}")
    return notes
