"""What a report is made of: tables and plots as plain values.

Markdown, PNG and the page show the same blocks, so all of them say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Scale = tuple[float, float, float]
"""A share with the ends of its interval: value, low, high."""
Role = Literal["refined", "bound", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The problems that a cell counts, as the page's browser filters them.

    Attributes:
        outcome: a name of `OUTCOMES`.
        method: whose outcome it is.
    """

    outcome: str
    method: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        scale: drawn as a dot with a bar, on a scale from 0 to 1.
        shown: the page makes a link of the text, which shows these problems.
    """

    text: str
    scale: Scale | None = None
    shown: Shown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; the first column names the row, the others are numbers.

    Attributes:
        title: of the section; several blocks may share one.
        columns: heads, one for each cell of a row.
        note: what the numbers mean.
        folded: what few look for; it opens when it is chosen.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis that points may be drawn over.

    Attributes:
        name: what a reader chooses it by.
        label: with its unit.
        log: a logarithmic scale; every value is positive.
    """

    name: str
    label: str
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A share over one value for each axis of its plot.

    Attributes:
        at: a value for each axis.
        scale: the share and its interval; both ends equal the share if there is none.
        label: what it is called where a reader points at it.
    """

    at: tuple[float, ...]
    scale: Scale
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind, joined by a line.

    Attributes:
        role: `refined` stands out, `bound` is what no selection can reach, `other` is the rest.
        colour: number of its colour and mark: a family has the same in all plots of a report.
        shown: from the beginning; the page shows others when they are chosen.
    """

    name: str
    role: Role
    points: tuple[Point, ...]
    colour: int
    shown: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Shares over one axis, or over the axis that a reader chooses.

    Attributes:
        ticks: the only values that the axis names, if it counts something; else ().
    """

    title: str
    axes: tuple[Axis, ...]
    series: tuple[Series, ...]
    ticks: tuple[float, ...] = ()
    note: str = ""


Block = Table | Plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of a report's head."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run, ready to be shown.

    Attributes:
        name: tells it from the other runs of a page.
        lead: what was run, in one sentence.
        facts: how, and where: settings, versions, digests.
        blocks: the figures, in the order they are read.
    """

    name: str
    lead: str
    facts: tuple[Fact, ...] = field(default_factory=tuple)
    blocks: tuple[Block, ...] = field(default_factory=tuple)
