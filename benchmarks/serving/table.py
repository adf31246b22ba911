"""The table of `benchmarks.serving`."""

from __future__ import annotations

from rich.table import Table

from benchmarks.serving.overhead import Overhead

LEAST_THROUGHPUT = 0.97
MOST_FIRST_MS = 5.0


def overhead_table(overhead: Overhead) -> Table:
    """Both checks, with what they aim at."""
    table = Table(title="what HTTP costs", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("in process", "over HTTP", "", "aim"):
        table.add_column(name, justify="right")
    inside, outside = (overhead.tokens / one for one in (overhead.inside, overhead.outside))
    table.add_row(
        "tokens/s",
        f"{inside:,.0f}",
        f"{outside:,.0f}",
        f"{overhead.throughput:.3f}×",
        f"≥ {LEAST_THROUGHPUT}×",
    )
    first = (1e3 * overhead.first_inside, 1e3 * overhead.first_outside)
    table.add_row(
        "ms to the first token",
        *(f"{one:.2f}" for one in first),
        f"{overhead.first_ms:+.2f}",
        f"≤ {MOST_FIRST_MS:g}",
    )
    return table
