"""All figures of a run in one value of plain numbers: what reports and tables show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.analysis import selections
from benchmarks.analysis.budgets import Budget, matched_budget
from benchmarks.analysis.candidates import Candidates, candidates_of
from benchmarks.analysis.comparisons import Difference, Gap, difference, refinement_gap
from benchmarks.analysis.confidence import window_of
from benchmarks.analysis.curve import Point, curve
from benchmarks.analysis.generations import answers_of, generated
from benchmarks.analysis.intervals import Interval, Resampling
from benchmarks.analysis.orders import OrderSensitivity, order_sensitivity
from benchmarks.analysis.outcome import Outcome
from benchmarks.analysis.quality import Mixture, mixtures, views
from benchmarks.analysis.repeats import Duel, Repeated, duel, repeated
from benchmarks.analysis.strata import Flips, Strata, by_correct, by_majority, by_size, flips
from benchmarks.samples.folder import Run
from gsr_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method: accuracy beside cost, means per problem.

    Attributes:
        name: what tables call it.
        family: the methods that differ from it in k alone.
        k: candidates that it reads.
        oracle: it knows which candidate is right: a bound, not a method.
        accuracy: with its interval.
        generated: tokens, those of the candidates included.
        prompt: tokens of all prompts, whoever computed them.
        total: tokens computed (see `outcome`).
        sequential: tokens generated one after the other.
        cut: share of the solutions it takes the answer from that were cut.
        unanswered: share of the problems without an answer; of pass@1 of the candidates.
        saved: share of the k candidates' tokens that it did not generate; None if it generated
            something besides them.
    """

    name: str
    family: str
    k: int
    oracle: bool
    accuracy: Interval
    generated: float
    prompt: float
    total: float
    sequential: float
    cut: float
    unanswered: float
    saved: float | None


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """A phase of selfRef@headline, measured end to end over `problems` problems."""

    layout: str
    phase: str
    problems: int
    computed: int
    reused: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Every figure of a run. Where there is nothing to say, lists are empty; NaN never appears.

    Attributes:
        task, model: as in the run's settings.
        problems, repeats, samples: a sample is a problem in a repeat.
        drawn: candidates of each sample.
        headline: the k of the main rows.
        temperature, max_tokens: of the candidates.
        left_out: problems that could not be asked, with the reason of each.
        window: tokens of a group of the figures by confidence; None without log-probabilities.
        notes: what could not be computed, and what failed.
        methods: the main table: selections at every k of the run, and all that was generated.
        differences: the headline refinements minus every other method; other generated methods
            minus the majority at the headline k.
        gaps: refinement gaps over the majority at the same k.
        budgets: each refinement beside majority at equal cost, on both axes.
        strata: by Nc, by size of the majority, by size of the problem if there are sizes.
        flips: each refinement against the majority at its k.
        orders: order sensitivity.
        views: whole candidates minus summaries.
        mixtures: accuracy over the share of candidates that were replaced.
        repeated: every method of the main table over repeats.
        duels: the headline refinements and every other method, repeat by repeat.
        curve: accuracy against cost over k; means over all choices of k where that can be.
        phases: what the engine measured end to end.
    """

    task: str
    model: str
    problems: int
    repeats: int
    samples: int
    drawn: int
    headline: int
    temperature: float | None
    max_tokens: int | None
    left_out: list[tuple[str, str]]
    window: int | None
    notes: list[str]
    methods: list[MethodRow]
    differences: list[Difference]
    gaps: list[Gap]
    budgets: list[Budget]
    strata: list[Strata]
    flips: list[Flips]
    orders: list[OrderSensitivity]
    views: list[Difference]
    mixtures: list[Mixture]
    repeated: list[Repeated]
    duels: list[Duel]
    curve: list[Point]
    phases: list[PhaseCost]


def summarize(run: Run, resamples: int = 10_000) -> Summary:
    """Every figure of a run; the same for the same samples.

    Args:
        run: finished.
        resamples: of the bootstrap.

    Raises:
        InvalidRequest: samples lack an answer of a method or some of the candidates, or a setting.
    """
    return _Summarizer(run, resamples).summary()


class _Summarizer:
    def __init__(self, run: Run, resamples: int) -> None:
        self._run, self._samples = run, run.samples
        settings = run.settings
        for name in ("task", "model", "k", "headline"):
            if name not in settings:
                raise InvalidRequest("run", f"its settings lack {name}")
        self._candidates = candidates_of(run.samples)
        self._resampling = Resampling([one.id for one in run.samples], resamples)
        self._headline: int = settings["headline"]
        drawn = self._candidates.drawn
        self._ks = sorted({k for k in (self._headline, *settings["k"]) if 1 < k <= drawn})
        self._generated = [generated(run, self._candidates, one) for one in run.methods]
        self._majorities = selections.mean_majorities(self._candidates) if drawn else []
        self._main = [*self._selected(), *self._generated]

    def _selected(self) -> Iterator[Outcome]:
        candidates = self._candidates
        if not candidates.drawn:
            return
        yield selections.pass_at_1(candidates)
        for k in self._ks:
            yield from selections.selections(candidates, k)
            if k < candidates.drawn:
                yield selections.mean_bound(candidates, k)

    @property
    def _refinements(self) -> list[Outcome]:
        """What reads candidates, but for other orders of the same."""
        kinds = ("greedy", "orders")
        return [one for one in self._generated if one.method and one.method.kind not in kinds]

    @property
    def _anchors(self) -> list[Outcome]:
        """The refinements that everything is compared with."""
        return [
            one
            for one in self._generated
            if one.method
            and one.method.kind == "selfref"
            and one.k == self._headline
            and not one.method.temperature
        ]

    def _majority(self, k: int) -> Outcome:
        return selections.majority_at(self._candidates, k)

    def summary(self) -> Summary:
        settings, samples = self._run.settings, self._samples
        repeated_ = [repeated(samples, one) for one in self._main]
        return Summary(
            task=settings["task"],
            model=settings["model"],
            problems=self._resampling.num_problems,
            repeats=len({one.repeat for one in samples}),
            samples=len(samples),
            drawn=self._candidates.drawn,
            headline=self._headline,
            temperature=settings.get("temperature"),
            max_tokens=settings.get("max_tokens"),
            left_out=[(one, reason) for one, reason in self._run.facts["left_out"]],
            window=window_of(self._candidates.tokens) if self._candidates.logprobs else None,
            notes=list(_notes(self._run, self._candidates)),
            methods=[self._row(one) for one in self._main],
            differences=list(self._differences()),
            gaps=[
                refinement_gap(one, self._majority(one.k), self._resampling)
                for one in self._refinements
            ],
            budgets=[
                matched_budget(one, self._majorities, axis, self._resampling)
                for one in self._refinements
                for axis in ("total", "sequential")
            ],
            strata=list(self._strata()),
            flips=[
                flips(samples, self._candidates, one, self._majority(one.k))
                for one in self._refinements
            ],
            orders=list(order_sensitivity(self._run, self._generated, self._resampling)),
            views=list(views(self._generated, self._resampling)),
            mixtures=list(mixtures(self._generated, self._resampling)),
            repeated=repeated_,
            duels=list(self._duels(repeated_)),
            curve=curve(list(self._points()), self._resampling),
            phases=list(_phases(self._run.facts["measured"])),
        )

    def _row(self, one: Outcome) -> MethodRow:
        cost, saved = one.cost, None
        if one.method is None:
            whole = one.k * self._candidates.tokens.mean()
            if not one.name.endswith(f"of {self._candidates.drawn}") and one.k > 1:
                whole = self._candidates.tokens[:, : one.k].sum(axis=1).mean()
            saved = float(1 - cost.generated.mean() / whole) if whole else 0.0
        return MethodRow(
            name=one.name,
            family=one.family,
            k=one.k,
            oracle=one.oracle,
            accuracy=self._resampling.mean(one.hits),
            saved=saved,
            **{name: float(np.mean(getattr(cost, name))) for name in _COSTS},
        )

    def _differences(self) -> Iterator[Difference]:
        anchors = self._anchors
        for anchor in anchors:
            for one in self._main:
                if one is not anchor:
                    yield difference(anchor, one, self._resampling)
        if 1 < self._headline <= self._candidates.drawn:
            majority = self._majority(self._headline)
            for one in self._generated:
                if one not in anchors:
                    yield difference(one, majority, self._resampling)

    def _strata(self) -> Iterator[Strata]:
        k, drawn = self._headline, self._candidates.drawn
        shown = [one for one in self._generated if one.method and one.method.kind != "orders"]
        if k <= drawn:
            rows = [self._majority(k), *(one for one in shown if one.k == k)]
            yield by_correct(self._candidates, k, rows, self._resampling)
            yield by_majority(self._candidates, k, rows, self._resampling)
        if any(one.size for one in self._samples):
            chosen = [one for one in self._main if one.method is None and one.k in (1, k)]
            rows = [*chosen, *(one for one in shown if one.k in (1, k))]
            yield by_size(self._samples, rows, self._resampling)

    def _duels(self, all_repeated: Sequence[Repeated]) -> Iterator[Duel]:
        by_name = {one.method: one for one in all_repeated}
        if len(all_repeated[0].accuracy.values) < 2:
            return
        for anchor in self._anchors:
            for other in all_repeated:
                if other.method != anchor.name:
                    yield duel(by_name[anchor.name], other)

    def _points(self) -> Iterator[Outcome]:
        """Families over k: means over all choices where they are exact, else the first k."""
        candidates = self._candidates
        if candidates.drawn:
            yield selections.pass_at_1(candidates)
        for k in range(2, candidates.drawn + 1):
            yield self._majorities[k - 1]
            yield from selections.mean_choices(candidates, k)
        known = {"maj", "pass@k", *(f"best-of-k ({by})" for by in ("logprob",))}
        for k in self._ks:
            for one in selections.selections(candidates, k):
                if one.family not in known:
                    yield one
        for one in self._generated:
            if one.method and one.method.kind not in ("orders", "mixed"):
                yield one


_COSTS = ("generated", "prompt", "total", "sequential", "cut", "unanswered")


def _notes(run: Run, candidates: Candidates) -> Iterator[str]:
    ...


def _phases(measured: dict[str, Any]) -> Iterator[PhaseCost]:
    for layout, cost in measured.get("cost", {}).items():
        for name, phase in cost["phases"].items():
            yield PhaseCost(
                layout,
                name,
                cost["problems"],
                phase["tokens_computed"],
                phase["tokens_reused"],
                phase["seconds"],
            )
