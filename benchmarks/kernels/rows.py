"""The results of a benchmark: plain dicts, each passed on at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch

Row = dict[str, Any]
Emit = Callable[[Row], None]
Case = TypeVar("Case")


class Measure(Protocol):
    """A function that times one family of kernels."""

    def __call__(self, device: str, quick: bool = False, *, emit: Emit = ...) -> list[Row]:
        """A row for each case; `quick` asks for fewer cases, `emit` gets each row as it comes."""
        ...


def ignore(row: Row) -> None:
    """Do nothing with a row: the caller reads the returned list."""


def collect(
    kernel: str,
    cases: Iterable[tuple[str, Case]],
    measure: Callable[[Case], Row],
    emit: Emit,
) -> list[Row]:
    """One row per named case. A case that fails gets the reason; the others still run."""
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
    """Add the figures of `measure` to a row, or the reason of its failure under `failed`."""
    try:
        row |= measure()
    except Exception as error:  # no memory, a tile too large for the chip, a broken peer
        row[failed] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
