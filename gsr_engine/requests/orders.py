"""The orders in which a linear refinement shows solutions: one function each.

A function gets the solutions that one refinement will read, sorted by index, and a random generator
that is seeded for this refinement only. It returns the same solutions in the order of the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gsr_engine.params import Order
from gsr_engine.requests.refine_prompts import ShownSolution

OrderFunction = Callable[[Sequence[ShownSolution], random.Random], list[ShownSolution]]


def shuffled(solutions: Sequence[ShownSolution], rng: random.Random) -> list[ShownSolution]:
    """A random order, so that the position in the prompt carries no information."""
    order = list(solutions)
    rng.shuffle(order)
    return order


def as_generated(solutions: Sequence[ShownSolution], rng: random.Random) -> list[ShownSolution]:
    """The order of the streams' indices."""
    return list(solutions)


# "as_finished" has no function: its prompt is written while the solutions finish.
ORDERS: dict[Order, OrderFunction] = {
    "shuffled": shuffled,
    "as_generated": as_generated,
}
