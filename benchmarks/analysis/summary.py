"""All figures of a run in one value of plain numbers: what reports and tables show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.analysis import selections
from benchmarks.analysis.budgets import Budget, matched_budgets
from benchmarks.analysis.candidates import Candidates, candidates_of
from benchmarks.analysis.comparisons import Difference, Gap, differences, refinement_gaps
from benchmarks.analysis.curve import Point, curve
from benchmarks.analysis.generations import answers_of, generated
from benchmarks.analysis.intervals import Resampling
from benchmarks.analysis.orders import OrderSensitivity, order_sensitivity
from benchmarks.analysis.outcome import Outcome
from benchmarks.analysis.quality import Mixture, mixtures, views
from benchmarks.analysis.repeats import Duel, Repeated, duel, repeated
from benchmarks.analysis.rows import MethodRow, PhaseCost, method_rows, phase_costs
from benchmarks.analysis.strata import Flips, Strata, by_correct, by_majority, by_size, flips
from benchmarks.samples.folder import Run
from benchmarks.samples.method import Kind
from gsr_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Every figure of a run. Where there is nothing to say, lists are empty; NaN never appears.

    Attributes:
        task, model: as in the run's settings.
        problems, repeats, samples: a sample is a problem in a repeat.
        drawn: candidates of each sample.
        headline: the k of the main rows.
        ks: every k of the run that candidates were drawn for.
        temperature, max_tokens: of the candidates.
        left_out: problems that could not be asked, with the reason of each.
        window: tokens of a group of the figures by confidence; None without log-probabilities.
        notes: what could not be computed, and what failed.
        methods: the main table: selections at every k of the run, and all that was generated.
        anchors: the headline refinements, which everything is compared with: selfref at the
            headline k without sampling, in each layout.
        differences: the anchors minus every other method; each refinement minus the majority at
            its k; greedy minus the majority at the headline k.
        gaps: refinement gaps over the majority at the same k.
        budgets: each refinement beside majority at equal cost, on both axes.
        strata: by Nc, by size of the majority, by size of the problem if there are sizes.
        flips: each refinement against the majority at its k.
        orders: order sensitivity.
        views: whole candidates minus summaries.
        mixtures: accuracy over the share of candidates that were replaced.
        repeated: every method of the main table over repeats.
        duels: the anchors and every other method, repeat by repeat; empty with one repeat.
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
    ks: list[int]
    temperature: float | None
    max_tokens: int | None
    left_out: list[tuple[str, str]]
    window: int | None
    notes: list[str]
    methods: list[MethodRow]
    anchors: list[str]
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
        for name in ("task", "model", "k", "headline", "repeats", "methods"):
            if name not in settings:
                raise InvalidRequest("run", f"its settings lack {name}")
        self._candidates = candidates_of(run.samples)
        self._resampling = Resampling([one.id for one in run.samples], resamples)
        self._headline: int = settings["headline"]
        drawn = self._candidates.drawn
        self._ks = sorted({k for k in (self._headline, *settings["k"]) if 1 < k <= drawn})
        self._generated = [generated(run, self._candidates, one) for one in run.methods]
        self._majorities = selections.mean_majorities(self._candidates) if drawn else []
        self._anchors = list(self._find_anchors())
        self._main = [*self._selected(), *self._generated]

    def _selected(self) -> Iterator[Outcome]:
        candidates = self._candidates
        if not candidates.drawn:
            return
        yield selections.pass_at_1(candidates)
        for k in self._ks:
            yield from selections.choices(candidates, k)
            yield from selections.early_stops(candidates, k)
            if k < candidates.drawn:
                yield selections.mean_bound(candidates, k)

    def _refinements(self) -> list[Outcome]:
        """What reads candidates, but for other orders of the same."""
        return [one for one in self._generated if _kind(one) not in ("greedy", "orders")]

    def _find_anchors(self) -> Iterator[Outcome]:
        for one in self._generated:
            warm = one.method is not None and one.method.temperature > 0
            if _kind(one) == "selfref" and one.k == self._headline and not warm:
                yield one

    def _beside_majority(self) -> list[tuple[Outcome, Outcome]]:
        """Each refinement with the majority of the first k candidates.

        All but `repeated` and `mixed` read just these; they stand beside what k of them could say.
        """
        return [(one, self._majority(one.k)) for one in self._refinements()]

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
            ks=sorted({*settings["k"], self._headline} & {*range(1, self._candidates.drawn + 1)}),
            temperature=settings.get("temperature"),
            max_tokens=settings.get("max_tokens"),
            left_out=[(one, reason) for one, reason in self._run.facts["left_out"]],
            window=confidence.window if (confidence := self._candidates.confidence) else None,
            notes=list(_notes(self._run, self._candidates)),
            methods=method_rows(self._main, self._resampling),
            anchors=[one.name for one in self._anchors],
            differences=differences(self._compared(), self._resampling),
            gaps=refinement_gaps(self._beside_majority(), self._resampling),
            budgets=matched_budgets(self._refinements(), self._majorities, self._resampling),
            strata=list(self._strata()),
            flips=[
                flips(samples, self._candidates, one, majority)
                for one, majority in self._beside_majority()
            ],
            orders=list(order_sensitivity(self._run, self._generated, self._resampling)),
            views=views(self._generated, self._resampling),
            mixtures=list(mixtures(self._run, self._generated, self._resampling)),
            repeated=repeated_,
            duels=list(self._duels(repeated_)),
            curve=curve(list(self._points()), self._resampling),
            phases=list(phase_costs(self._run.facts["measured"])),
        )

    def _compared(self) -> list[tuple[Outcome, Outcome]]:
        pairs = [
            (anchor, one) for anchor in self._anchors for one in self._main if one is not anchor
        ]
        pairs += self._beside_majority()
        if self._headline <= self._candidates.drawn:
            majority = self._majority(self._headline)
            pairs += ((one, majority) for one in self._generated if _kind(one) == "greedy")
        return list({(one.name, other.name): (one, other) for one, other in pairs}.values())

    def _strata(self) -> Iterator[Strata]:
        k, drawn = self._headline, self._candidates.drawn
        shown = [one for one in self._generated if _kind(one) != "orders"]
        if k <= drawn:
            rows = [self._majority(k), *(one for one in shown if one.k == k)]
            yield by_correct(self._candidates, k, rows, self._resampling)
            yield by_majority(self._candidates, k, rows, self._resampling)
        if any(one.size for one in self._samples):
            names = ("pass@1", f"maj@{k}", f"pass@{k} (oracle)")
            rows = [one for one in self._main if one.name in names or _kind(one) == "greedy"]
            yield by_size(self._samples, [*rows, *self._anchors], self._resampling)

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
        for k in self._ks:
            yield from selections.early_stops(candidates, k)
        for one in self._generated:
            if _kind(one) not in ("orders", "mixed"):
                yield one


def _kind(one: Outcome) -> Kind | None:
    return None if one.method is None else one.method.kind


def _notes(run: Run, candidates: Candidates) -> Iterator[str]:
    """What could not be computed, and what failed."""
    if candidates.drawn and candidates.confidence is None:
        yield "not every candidate has log-probabilities: nothing is chosen or weighted by them"
    if run.settings.get("reward_model") and "reward" not in candidates.scores:
        yield "not every candidate has a reward: none is chosen by it"
    failed = [one.error for sample in run.samples for one in sample.candidates if one.error]
    if failed:
        yield f"{len(failed)} candidates failed; the first: {failed[0]}"
    for method in run.methods:
        failed = [one.error for one in answers_of(run, method) if one.error]
        if failed:
            yield f"{method.name}: {len(failed)} answers failed; the first: {failed[0]}"
