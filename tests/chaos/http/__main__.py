"""python -m tests.chaos.http: a crowd against the HTTP server, by a fresh seed.

Phase 1 breaks the device of a server in this process; clients leave, lie, and are aborted. Phase 2
sends SIGTERM to `gsr serve` under load. A failure prints the seed and the last things that
happened, in order.
"""

from __future__ import annotations

import logging
import random
import warnings
from typing import Annotated

import typer

from tests.chaos.http.clients import Tally
from tests.chaos.http.faults import break_everything
from tests.chaos.http.sigterm import end_under_load


def _told(tally: Tally) -> str:
    statuses = ", ".join(f"{count:,} x {status}" for status, count in sorted(tally.answers.items()))
    errors = ", ".join(f"{count:,} {code}" for code, count in tally.errors.most_common())
    return f"{tally.asked:,} requests: {statuses}; {tally.left:,} left; errors: {errors or 'none'}"


def main(
    seconds: Annotated[float, typer.Option(help="Of phase 1.")] = 600,
    clients: Annotated[int, typer.Option(min=1, help="At the same time.")] = 200,
    seed: Annotated[int, typer.Option(help="Of what the clients do; 0 draws one.")] = 0,
) -> None:
    """Let clients leave, lie and be unlucky; every survivor is answered once, and nothing stays."""
    logging.getLogger("gsr_engine").setLevel(logging.CRITICAL + 1)  # faults are made on purpose
    warnings.simplefilter("ignore")
    seed = seed or random.SystemRandom().randrange(1, 10**9)
    print(f"seed {seed}", flush=True)
    report = break_everything(seed, clients, seconds)
    print(_told(report.tally))
    slope = report.kib_per_thousand
    grown = "too few to tell" if slope is None else f"{slope:+,.0f} KiB per 1,000 requests"
    print(f"resident size: {report.resident_mib:,.0f} MiB in the end, {grown}")
    print(f"{report.compared} answers compared with an engine alone, {report.ties} ties")
    print("all pages are free; no task and no thread is left", flush=True)
    print(f"SIGTERM: {_told(end_under_load(seed, clients, min(10.0, seconds)))}; status 0")


if __name__ == "__main__":
    typer.run(main)
