"""From the summary of a run to the blocks of its report, in the order they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.analysis.comparisons import Difference
from benchmarks.analysis.rows import MethodRow
from benchmarks.analysis.strata import Strata
from benchmarks.analysis.summary import Summary
from benchmarks.report import sensitivity
from benchmarks.report.blocks import Block, Cell, Shown, Table
from benchmarks.report.plots import Plots, parted_by, scale_of, starts_shown
from benchmarks.report.wording import p_value, percent, tokens, whole
from benchmarks.samples.folder import Run


def figures(run: Run, summary: Summary) -> tuple[Block, ...]:
    """Every block of a run's report."""
    plots = Plots(summary, {one.name for one in run.methods if one.kind != "greedy"})
    return (
        *_methods(summary),
        *plots.cost(),
        *plots.over_k(),
        *_differences(summary),
        *_budgets(summary),
        *_flips(summary),
        *plots.strata(),
        *(_strata(one) for one in summary.strata if one.rows),
        *plots.mixtures(),
        *sensitivity.mixtures(summary),
        *sensitivity.orders(summary),
        *sensitivity.views(summary),
        *sensitivity.repeats(summary),
        *sensitivity.duels(summary),
        *_phases(summary),
    )


def overview(summaries: Sequence[Summary], names: Sequence[str]) -> Table:
    """Several runs, one in a row: their main methods at the headline k."""
    rows = []
    for name, summary in zip(names, summaries, strict=True):
        k = summary.headline
        by_name = {row.name: row for row in summary.methods}
        best = max(
            (row for row in summary.methods if row.family.startswith("selfref") and row.k == k),
            key=lambda row: row.accuracy.mean,
            default=None,
        )
        found = [by_name.get(one) for one in ("pass@1", "greedy", f"maj@{k}", f"pass@{k} (oracle)")]
        rows.append(
            (
                Cell(name),
                Cell(f"{summary.problems:,} × {summary.repeats}"),
                Cell(str(k)),
                *(Cell(str(row.accuracy) if row else "–") for row in (*found, best)),
                Cell(tokens(best.total) if best else "–"),
                Cell(tokens(best.sequential) if best else "–"),
            )
        )
    columns = ("run", "problems × repeats", "k", "pass@1", "greedy", "maj@k", "pass@k (oracle)")
    refined = ("best selfRef@k", "its tokens", "sequential")
    note = "Best selfRef@k is chosen after the fact among the layouts and temperatures of the run."
    return Table(title="Runs", columns=columns + refined, rows=tuple(rows), note=note)


def _methods(summary: Summary) -> Iterator[Table]:
    k = summary.headline
    main = [row for row in summary.methods if row.k == k or row.name in ("pass@1", "greedy")]
    others = [row for row in summary.methods if row not in main]
    note = (
        "Accuracy with its 95 % bootstrap interval, clustered by problem. Per problem: tokens "
        "computed, prompts and candidates included; tokens generated one after the other. Cut and "
        "no answer are shares of the solutions that an answer is read from. "
        f"{' '.join(f'{note}.' for note in summary.notes)}"
    ).strip()
    yield _method_table(f"Methods at k = {k}", main, note)
    if others:
        yield _method_table("Methods at other k", others, "", folded=True)


def _method_table(title: str, rows: Sequence[MethodRow], note: str, folded: bool = False) -> Table:
    columns = ("method", "accuracy [95 %]", "tokens", "sequential", "saved", "cut", "no answer")
    return Table(
        title=title,
        columns=columns,
        rows=tuple(
            (
                Cell(row.name),
                Cell(str(row.accuracy), scale=scale_of(row.accuracy)),
                Cell(tokens(row.total)),
                Cell(tokens(row.sequential)),
                Cell(percent(row.saved) if row.saved and row.saved > 0 else ""),
                Cell(percent(row.cut)),
                Cell(percent(row.unanswered)),
            )
            for row in rows
        ),
        note=note,
        folded=folded,
    )


def _differences(summary: Summary) -> Iterator[Table]:
    """Differences at the headline k; others, and from what few use, are folded."""
    near = {row.name: row for row in summary.methods if row.k in (1, summary.headline)}
    refined = {one.method for one in summary.flips}

    def is_main(one: Difference) -> bool:
        if not {one.method, one.other} <= near.keys():
            return False
        return one.other in refined or starts_shown(near[one.other].family, one.other)

    main = [one for one in summary.differences if is_main(one)]
    note = (
        "Better and worse are problems that the method is right on more often, and less often. "
        "The p-value is exact, and not corrected for how many comparisons there are."
    )
    if main:
        yield _difference_table("Paired differences", main, note)
    if others := [one for one in summary.differences if one not in main]:
        yield _difference_table("Other paired differences", others, folded=True)


def _difference_table(
    title: str, differences: Sequence[Difference], note: str = "", folded: bool = False
) -> Table:
    return Table(
        title=title,
        columns=("method minus other", "difference [95 %]", "better", "worse", "McNemar p"),
        rows=tuple(
            (
                Cell(f"{one.method} − {one.other}"),
                Cell(one.interval.signed),
                Cell(whole(one.better)),
                Cell(whole(one.worse)),
                Cell(p_value(one.p_value)),
            )
            for one in differences
        ),
        note=note,
        folded=folded,
    )


def _budgets(summary: Summary) -> Iterator[Table]:
    if summary.budgets:
        columns = ("method", "equal in", "tokens", "maj@k'", "its tokens", "its accuracy [95 %]")
        yield Table(
            title="Majority at equal cost",
            columns=(*columns, "difference [95 %]"),
            rows=tuple(
                (
                    Cell(one.method),
                    Cell(f"{one.axis} tokens"),
                    Cell(tokens(one.tokens)),
                    Cell(f"maj@{one.k}{'*' if one.all_drawn else ''}"),
                    Cell(tokens(one.majority_tokens)),
                    Cell(str(one.majority), scale=scale_of(one.majority)),
                    Cell(one.difference.interval.signed),
                )
                for one in summary.budgets
            ),
            note="k' is the largest that costs no more than the method; maj@k' is the mean over "
            "all choices of k' among the candidates drawn. * marks all of them: with more, "
            "majority could have spent more.",
        )


def _flips(summary: Summary) -> Iterator[Table]:
    if not summary.flips:
        return
    gaps = {gap.method: gap.interval for gap in summary.gaps}
    rows = []
    for one in summary.flips:
        gap = gaps.get(one.method)
        counts = (
            ("majority wrong → right", one.gained),
            ("majority right → wrong", one.lost),
            ("all candidates wrong → right", one.by_correct[0].gained),
        )
        rows.append(
            (
                Cell(one.method),
                *(
                    Cell(f"{count:,}", shown=Shown(outcome=outcome, method=one.method))
                    for outcome, count in counts
                ),
                Cell(f"{one.by_correct[0].samples:,}"),
                Cell(f"{one.kept_right:,}"),
                Cell(f"{one.kept_wrong:,}"),
                Cell(gap.signed if gap else "–"),
            )
        )
    columns = ("method", "wrong → right", "right → wrong", "all wrong → right", "of", "kept right")
    yield Table(
        title="What refining changes",
        columns=(*columns, "kept wrong", "refinement gap [95 %]"),
        rows=tuple(rows),
        note="Samples, beside the majority of the problem's first k candidates, which all but "
        "repeated and mixed methods read. All wrong: none of these is right, so no selection among "
        "them can be. The gap is (refined − majority) / majority.",
    )


def _strata(strata: Strata) -> Table:
    names = list(dict.fromkeys(name for row in strata.rows for name in row.accuracy))
    return Table(
        title=f"By {parted_by(strata)}",
        columns=(strata.by, "samples", *names),
        rows=tuple(
            (
                Cell(row.label),
                Cell(f"{row.samples:,}"),
                *(Cell(str(row.accuracy[n]) if n in row.accuracy else "–") for n in names),
            )
            for row in strata.rows
        ),
    )


def _phases(summary: Summary) -> Iterator[Table]:
    if summary.phases:
        columns = ("layout and phase", "problems", "tokens computed", "tokens reused", "seconds")
        yield Table(
            title=f"Cost of selfRef@{summary.headline}, end to end",
            columns=columns,
            rows=tuple(
                (
                    Cell(f"{one.layout}: {one.phase.replace('_', ' ')}"),
                    Cell(f"{one.problems:,}"),
                    Cell(f"{one.computed:,}"),
                    Cell(f"{one.reused:,}"),
                    Cell(f"{one.seconds:.2f}"),
                )
                for one in summary.phases
            ),
            note="Measured in a run of its own; another run measures other seconds.",
        )
