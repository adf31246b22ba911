"""What a benchmark gives: plain dicts, each handed on as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

Row = dict[str, Any]
Emit = Callable[[Row], None]
Case = TypeVar("Case")


class Measure(Protocol):
    """What times one family of kernels."""

    def __call__(self, device: str, quick: bool = False, *, emit: Emit = ...) -> list[Row]:
        """A row for each case; `quick` asks for fewer cases, `emit` gets each row as it comes."""
        ...


def ignore(row: Row) -> None:
    """Do nothing with a row: whoever calls waits for the list."""


def collect(
    kernel: str,
    cases: Iterable[tuple[str, Case]],
    measure: Callable[[Case], Row],
    emit: Emit,
) -> list[Row]:
    """One row per named case; one that fails says why, and the others go on."""
    rows = []
    for name, case in cases:
        row: Row = {"kernel": kernel, "case": name}
        add(row, "failed", partial(measure, case))
        rows.append(row)
        emit(row)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def add(row: Row, failed: str, measure: Callable[[], Row]) -> None:
    """Add to a row what `measure` finds, or under `failed` why it found nothing."""
    try:
        row |= measure()
    except Exception as error:  # memory, a tile too large for the chip, a peer's own troubles
        row[failed] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
