"""A question: the runs that it takes, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.studies.claims import Claim
from benchmarks.studies.measured import Measured
from benchmarks.studies.runs import StudyRun

K = 4
LINEAR, BRANCHED, MAJORITY = f"selfref linear@{K}", f"selfref branched@{K}", f"maj@{K}"
MAIN_METHODS = ("pass@1", "greedy", MAJORITY, f"best-of-{K}", f"pass@{K}", LINEAR, BRANCHED)
LINEAR_ONLY = {"k": f"1,{K}", "layouts": "linear"}
"""Options of the runs that need one layout."""
PAPER = "arXiv 2509.00084"
SECONDARY = f"{PAPER}, by a public summary of its first version"
REVIEWS = f"reviews of {PAPER} (OpenReview nbhDNDDZMe)"

Runs = Mapping[str, Measured]
"""Finished runs by name."""


@dataclass(frozen=True, slots=True)
class TableOf:
    """A table of a report: texts by column, row by row."""

    title: str
    rows: Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the runs say about a question.

    Attributes:
        claims: with their verdicts.
        tables: the figures, cost beside accuracy.
    """

    claims: Sequence[Claim]
    tables: Sequence[TableOf]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of the paper, or of its reviewers.

    Attributes:
        name: what the command calls it.
        title: in words.
        runs: what is measured; several questions may share a run.
        answer: from the finished runs, by name.
        limits: how far the answer goes, in sentences.
    """

    name: str
    title: str
    runs: Sequence[StudyRun]
    answer: Callable[[Runs], Answered]
    limits: str


def methods_table(
    title: str, rows: Sequence[tuple[str, Measured]], methods: Sequence[str] = MAIN_METHODS
) -> TableOf:
    """Accuracy of methods, with tokens computed / generated in sequence beside; a run a row."""
    return TableOf(title, [_row(label, one, methods) for label, one in rows])


def _row(label: str, measured: Measured, methods: Sequence[str]) -> dict[str, str]:
    row = {"": label, "problems": f"{measured.resampling.num_problems:,}"}
    for name in methods:
        row[name] = accuracy_and_cost(measured, name) if measured.has(name) else "–"
    return row


def accuracy_and_cost(measured: Measured, name: str) -> str:
    """A cell: accuracy [interval]; tokens computed / generated one after the other."""
    total, sequential = measured.tokens(name)
    return f"{measured.accuracy(name)}; {total:,.0f} / {sequential:,.0f}"
