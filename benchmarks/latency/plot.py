"""The pictures of `benchmarks.latency`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt  # after the backend is chosen

from benchmarks.latency.cell import Cell
from benchmarks.latency.figures import Figures

mpl.use("Agg")

Draw = Callable[[Any, Sequence[Figures]], None]
"""Draws some figures into an axes of matplotlib."""

AXES = {
    "k": "k candidates",
    "problem": "problem tokens",
    "candidate": "candidate tokens",
    "at_once": "problems at once",
}
"""What a closed loop may vary, and the labels."""


def coordinates(cell: Cell) -> dict[str, float]:
    """The numbers of a cell, by the names of `AXES` and two more; natural lengths are 0."""
    problem, candidate, refine = cell.lengths or (0, 0, 0)
    lengths = {"problem": problem, "candidate": candidate, "refine": refine}
    return {"k": cell.k, **lengths, "at_once": cell.at_once, "rate": cell.rate}


def lines_over(
    found: Sequence[Figures], axis: str
) -> Iterator[tuple[str, list[float], list[Figures]]]:
    """Of each system its name, values on an axis and figures there, in the order of the values.

    The other coordinates are those of the first figures of all.
    """
    base = coordinates(found[0].cell)
    for system in dict.fromkeys(one.cell.system for one in found):
        values = {}
        for one in found:
            mine = coordinates(one.cell)
            if one.cell.system == system and all(
                mine[name] == base[name] for name in base if name != axis
            ):
                values[mine[axis]] = one
        yield system, sorted(values), [values[value] for value in sorted(values)]


def plot_closed(found: Sequence[Figures], title: str, path: Path) -> None:
    """Two rows of panels: seconds to the answer and answers/s over everything that varies.

    Where answers are graded a column before shows accuracy over seconds, and right answers/s.
    """
    columns: list[tuple[Draw, Draw]] = []
    if all(one.grades is not None for one in found):
        columns.append((_accuracy_over_seconds, _over("k", "right answers/s", _right)))
    for axis in AXES:
        if len({coordinates(one.cell)[axis] for one in found}) > 1:
            seconds = _over(axis, "seconds to the answer (p50; p90 dashed)", _p50, _p90)
            columns.append((seconds, _over(axis, "answers/s", _rate)))
    if not columns:  # one work alone: its systems side by side
        columns.append((_over("k", "seconds to the answer", _p50), _over("k", "answers/s", _rate)))
    width = max(6.5, 4.6 * len(columns))
    figure, panels = plt.subplots(
        2, len(columns), figsize=(width, 8), layout="constrained", squeeze=False
    )
    for column, draws in enumerate(columns):
        for row, draw in enumerate(draws):
            draw(panels[row][column], found)
    _save(figure, panels[0][0], title, path)


def plot_open(found: Sequence[Figures], deadline: float | None, title: str, path: Path) -> None:
    """Three panels over the rate: seconds to the answer and its first token, and goodput."""
    within = "answers/s" if deadline is None else f"answers/s within {deadline:g} s"
    good = _rate if deadline is None else _goodput
    figure, panels = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    for axes, draw in zip(
        panels,
        (
            _over("rate", "seconds to the answer (p50; p99 dashed)", _p50, _p99),
            _over("rate", "seconds to the first refined token (p50)", _first_refined),
            _over("rate", within, good),
        ),
        strict=True,
    ):
        draw(axes, found)
        axes.set_xlabel("problems/s that arrive")
    _, rates, _ = next(lines_over(found, "rate"))
    panels[2].plot(rates, rates, ":", color="grey", lw=1)
    _save(figure, panels[0], title, path)


def _save(figure: Any, first: Any, title: str, path: Path) -> None:
    first.legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


Value = Callable[[Figures], float | None]


def _over(axis: str, label: str, *values: Value) -> Draw:
    """Values over an axis: the first as full lines, the second dashed; they start at zero."""

    def draw(axes: Any, found: Sequence[Figures]) -> None:
        places: list[float] = []
        for number, (system, places, line) in enumerate(lines_over(found, axis)):
            for value, style, name in zip(values, ("-o", "--"), (system, None), strict=False):
                heights = [value(one) for one in line]
                axes.plot(places, heights, style, color=f"C{number}", label=name)
        axes.set(xlabel=AXES.get(axis), ylabel=label, xticks=places)
        axes.set_ylim(bottom=0)

    return draw


def _accuracy_over_seconds(axes: Any, found: Sequence[Figures]) -> None:
    """selfRef@k with k beside each point, maj@k dashed where a vote could answer."""
    for number, (system, ks, line) in enumerate(lines_over(found, "k")):
        graded = [(one, one.grades) for one in line if one.grades is not None]
        colour = f"C{number}"
        seconds = [one.answered.p50 for one, _ in graded]
        accuracy = [grades.selfref.mean for _, grades in graded]
        axes.plot(seconds, accuracy, "-o", color=colour, label=system)
        for place in zip([f"{k:g}" for k in ks], seconds, accuracy, strict=True):
            axes.annotate(
                place[0], place[1:], fontsize=7, textcoords="offset points", xytext=(4, 4)
            )
        axes.plot(
            [one.voted for one, _ in graded],
            [grades.majority.mean for _, grades in graded],
            "--",
            color=colour,
        )
    axes.set(xlabel="seconds to the answer (p50)", ylabel="selfRef@k (maj@k dashed)")


def _p50(one: Figures) -> float:
    return one.answered.p50


def _p90(one: Figures) -> float:
    return one.answered.p90


def _p99(one: Figures) -> float:
    return one.answered.p99


def _first_refined(one: Figures) -> float:
    return one.first_refined


def _rate(one: Figures) -> float:
    return one.answers_per_second


def _goodput(one: Figures) -> float | None:
    return one.goodput


def _right(one: Figures) -> float | None:
    return None if one.grades is None else one.grades.right_per_second
