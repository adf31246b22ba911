"""A way to answer a problem that needs generation of its own, besides the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gsr_engine.params import Layout, View

Kind = Literal["greedy", "selfref", "fusion", "repeated", "rounds", "orders", "views", "mixed"]
"""What a method is called for: see `Method`."""
Pool = Literal["own", "weak", "foreign", "truncated", "corrupted"]
"""Where a candidate that a refinement reads comes from.

own: drawn for this problem. weak: of a weaker model. foreign: of another problem. truncated: an own
one, cut. corrupted: an own one with another answer.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method of a run; plain values, so that run.json holds it.

    greedy    the direct solution at temperature 0
    selfref   a refinement of the first k candidates
    fusion    the same candidates, merged by a plain prompt that the model was not trained on
    repeated  a refinement that reads the first candidate k times
    rounds    rounds of refinements, each over a subset (RSA)
    orders    a refinement that reads the first k in another order
    views     a refinement that reads whole candidates, thinking included
    mixed     a refinement of k candidates of which a share comes from another pool

    Attributes:
        name: unique in a run; what tables call it.
        layout: of the refinement; None if there is none.
        k: candidates that it reads.
        temperature: of the last generation.
        view: what it is shown of a candidate.
        order: number of the order in which it reads the candidates; 0 is the run's own.
        template: built-in prompts; None takes the model's.
        widths, subset, refinements: as in `SelfRefineParams`.
        pool: where the replaced candidates come from.
        share: of the k candidates that are replaced.
    """

    name: str
    kind: Kind
    layout: Layout | None = None
    k: int = 1
    temperature: float = 0.0
    view: View = "summary"
    order: int = 0
    template: str | None = None
    widths: tuple[int, ...] = ()
    subset: int | None = None
    refinements: int = 1
    pool: Pool = "own"
    share: float = 0.0
