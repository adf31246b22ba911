"""python -m tests.chaos.soak: random histories against the stub model.

Each history is a new engine with a random pool, cache and token budget. A history that fails is
shrunk to the actions that it needs, and the command that repeats it is printed.
"""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from tests.chaos.actions import Event, random_history
from tests.chaos.shrink import shrink_failure
from tests.chaos.stub_world import StubWorld


@dataclass(frozen=True, slots=True)
class Lived:
    """What came of one history."""

    seed: int
    requests: int
    preemptions: int
    error: str | None = None


def live(length: int, seed: int) -> Lived:
    """One history of that many actions."""
    logging.disable(logging.CRITICAL)  # of the faults that are made on purpose
    warnings.simplefilter("ignore")
    world = StubWorld.random(seed)
    try:
        world.live_through(random_history(seed, length))
    except BaseException as error:
        return Lived(seed, 0, 0, f"{type(error).__name__}: {error}")
    return Lived(seed, len(world.ended), world.engine.scheduler.num_preemptions)


def main(
    steps: Annotated[int, typer.Option(help="Random actions in all.")] = 1_000_000,
    length: Annotated[int, typer.Option(help="Actions of one history.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the first history; 0 draws one.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0 for one a core.")] = 0,
    state: Annotated[
        Path | None, typer.Option(help="A file to go on from after an interruption.")
    ] = None,
    replay: Annotated[
        str, typer.Option(help="Events of the history of --seed, as a failure prints them.")
    ] = "",
) -> None:
    """Run histories and check after every action; stop at the first failure."""
    if replay:
        StubWorld.random(seed).live_through([Event.read(text) for text in replay.split()])
        print("nothing failed")
        return
    seed, done = _resume(state, seed or random.SystemRandom().randrange(1, 10**9))
    print(f"first seed {seed}" + (f", {done} histories are done" if done else ""))
    seeds = range(seed + done, seed + max(1, steps // length))
    requests = preemptions = 0
    with ProcessPoolExecutor(workers or None) as pool:
        for lived in track(_in_order(pool, length, seeds), "histories", total=len(seeds)):
            if lived.error is not None:
                pool.shutdown(cancel_futures=True)
                _report(lived, length)
                raise typer.Exit(1)
            requests += lived.requests
            preemptions += lived.preemptions
            done += 1
            if state is not None:
                state.write_text(json.dumps({"seed": seed, "done": done}))
    print(
        f"{done:,} seeds, {done * length:,} actions, {requests:,} requests, "
        f"{preemptions:,} preemptions: nothing lost"
    )


def _in_order(pool: ProcessPoolExecutor, length: int, seeds: range) -> Iterator[Lived]:
    return pool.map(partial(live, length), seeds)


def _resume(state: Path | None, seed: int) -> tuple[int, int]:
    if state is None or not state.exists():
        return seed, 0
    known = json.loads(state.read_text())
    return known["seed"], known["done"]


def _report(lived: Lived, length: int) -> None:
    print(f"the history of seed {lived.seed} failed: {lived.error}")
    whole = random_history(lived.seed, length)
    history = shrink_failure(whole, lambda part: StubWorld.random(lived.seed).live_through(part))
    events = " ".join(map(str, history))
    print(f"{len(history)} actions are enough:")
    print(f'python -m tests.chaos.soak --seed {lived.seed} --replay "{events}"')


if __name__ == "__main__":
    typer.run(main)
