"""Rows as text: a table for each kind of row, and the summary of a whole check."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.gpu_check.record import TARGETS, Row, figures_of, is_bad, line_of, text_of

_MOST_BAD, _MOST_SKIPPED = 40, 20
"""Most such rows that the summary names, so that the end of the output shows all of it."""
_HEAD = ("gpu", "driver", "cuda", "torch", "triton", "transformers", "python", "date", "commit")


def head_of(rows: Sequence[Row]) -> str:
    """On one line the chip, the driver, the versions and the date of all figures."""
    machine: Row = next((row for row in rows if row["table"] == "machine"), {})
    return ", ".join(f"{name} {machine[name]}" for name in _HEAD if name in machine)


def tables_of(rows: Sequence[Row]) -> str:
    """Rows as tables, one for each table name, in order of appearance."""
    names = dict.fromkeys(row["table"] for row in rows)
    return "\n\n".join(_table(name, [r for r in rows if r["table"] == name]) for name in names)


def _table(name: str, rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in figures_of(row)))
    cells = [[name, *columns]]
    cells += [[row["case"], *(text_of(row.get(c, "")) for c in columns)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *others in cells:
        padded = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def summary_of(rows: Sequence[Row], seconds: dict[str, float]) -> str:
    """The result of each part, every target, and what was skipped or is bad."""
    lines = []
    for part, taken in seconds.items():
        mine = [row for row in rows if row["part"] == part]
        passed = sum(row.get("passed") is True for row in mine)
        skipped = sum("skipped" in row for row in mine)
        bad = sum(map(is_bad, mine))
        lines.append(
            f"{part}: {len(mine)} rows, {passed} checks passed, {bad} bad, {skipped} skipped, "
            f"{taken:.0f} s"
        )
    lines += [f"TARGET {line_of(row)}" for row in rows if row["table"] == TARGETS]
    lines += _named("SKIPPED", [row for row in rows if "skipped" in row], _MOST_SKIPPED)
    lines += _named("BAD", [row for row in rows if is_bad(row)], _MOST_BAD)
    return "\n".join(lines)


def _named(what: str, rows: Sequence[Row], most: int) -> list[str]:
    """A line for each of some rows, and how many more there are."""
    lines = [f"{what} {line_of(row)}" for row in rows[:most]]
    return lines + ([f"and {len(rows) - most} more"] if len(rows) > most else [])
