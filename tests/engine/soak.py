"""python -m tests.engine.soak: random histories against the stub model, until stopped.

Each history is a new engine with a random pool, cache and token budget. Its seed reproduces a
failure.
"""

from __future__ import annotations

import logging
import random
import warnings
from typing import Annotated

import typer
from rich.progress import track

from tests.helpers.stub import Driver

HISTORY = 5_000


def main(
    steps: Annotated[int, typer.Option(help="Random actions in all.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of the first history; 0 draws one.")] = 0,
) -> None:
    """Run histories and check after every action; stop at the first failure."""
    logging.disable(logging.CRITICAL)  # of the failures that the stub makes on purpose
    warnings.simplefilter("ignore")
    seed = seed or random.SystemRandom().randrange(1, 10**9)
    print(f"first seed {seed}")
    requests = preemptions = 0
    for history in track(range(seed, seed + max(1, steps // HISTORY)), "histories"):
        rng = random.Random(history)
        driver = Driver(
            history,
            lag=rng.choice((0, 1)),
            pages=rng.choice((32, 36, 40, 60, 200)),
            prefix_cache=rng.random() < 0.75,
            max_batch_tokens=rng.choice((40, 50, 200)),
            max_num_seqs=40,
        )
        try:
            for _ in range(HISTORY):
                driver.act()
                driver.check()
            driver.drain()
        except BaseException:
            print(f"history {history} failed: --seed {history} --steps {HISTORY} repeats it")
            raise
        requests += len(driver.ended)
        preemptions += driver.engine.stats()["preemptions"]
    print(f"{steps:,} actions, {requests:,} requests, {preemptions:,} preemptions: nothing lost")


if __name__ == "__main__":
    typer.run(main)
