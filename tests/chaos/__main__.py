"""python -m tests.chaos: nano under injected faults, on Engine and on AsyncEngine, by fresh seeds.

A synchronous history that fails is shrunk to the actions that it needs, and the command that
repeats it is printed. An asynchronous one prints its seed and the order of what happened.
"""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from functools import partial
from typing import Annotated

import typer
from rich.progress import track

from tests.chaos.actions import Event, random_history
from tests.chaos.async_world import AsyncWorld
from tests.chaos.nano_world import NanoWorld
from tests.chaos.shrink import shrink_failure


def live(seed: int, history: list[Event]) -> None:
    """A history of an `Engine`."""
    NanoWorld.random(seed).live_through(history)


def live_async(seed: int, history: list[Event]) -> None:
    """A history of an `AsyncEngine`; raises an error that tells what happened, in order."""
    world = AsyncWorld(seed)
    try:
        asyncio.run(world.live_through(history))
    except Exception as error:
        told = "\n".join(world.log)
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}\n{told}") from error


def main(
    seeds: Annotated[int, typer.Option(help="Histories of either kind.")] = 40,
    length: Annotated[int, typer.Option(help="Actions of one history.")] = 150,
    seed: Annotated[int, typer.Option(help="Of the first history; 0 draws one.")] = 0,
    replay: Annotated[
        str, typer.Option(help="Events of the history of --seed, as a failure prints them.")
    ] = "",
) -> None:
    """Break nano in every way, and check that nobody but the victim notices."""
    logging.disable(logging.CRITICAL)  # of the faults that are made on purpose
    warnings.simplefilter("ignore")
    if replay:
        live(seed, [Event.read(text) for text in replay.split()])
        print("nothing failed")
        return
    seed = seed or random.SystemRandom().randrange(1, 10**9)
    print(f"first seed {seed}")
    for number in track(range(seed, seed + seeds), "histories"):
        history = random_history(number, length)
        live_async(number, history)
        try:
            live(number, history)
        except Exception as error:
            shorter = shrink_failure(history, partial(live, number))
            events = " ".join(map(str, shorter))
            print(f"seed {number}: {type(error).__name__}: {error}; {len(shorter)} actions suffice")
            print(f'python -m tests.chaos --seed {number} --replay "{events}"')
            raise
    print(f"{2 * seeds} histories, {2 * seeds * length:,} actions: nobody but the victims noticed")


if __name__ == "__main__":
    typer.run(main)
