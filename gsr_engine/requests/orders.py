"""The orders in which a linear refinement shows solutions: one function each.

A function gets the solutions that one refinement will read, by index, and a generator seeded for
that refinement alone. It returns the same solutions in the order in which the prompt shows them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gsr_engine.params import Order
from gsr_engine.requests.refine_prompts import ShownSolution

OrderFunction = Callable[[Sequence[ShownSolution], random.Random], list[ShownSolution]]


def shuffled(solutions: Sequence[ShownSolution], rng: random.Random) -> list[ShownSolution]:
    """A random order, so that a position in the prompt tells nothing about a solution."""
    order = list(solutions)
    rng.shuffle(order)
    return order


def as_generated(solutions: Sequence[ShownSolution], rng: random.Random) -> list[ShownSolution]:
    """The order of the streams."""
    return list(solutions)


# "as_finished" is no function of the solutions: the prompt is written while they finish.
ORDERS: dict[Order, OrderFunction] = {
    "shuffled": shuffled,
    "as_generated": as_generated,
}
