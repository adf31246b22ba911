"""What the model is trained for: the objectives, each with a loss over rows of its own.

A row names its objective, also on disk. Batches, the loop, the log and the data card iterate over
`OBJECTIVES` or over the names that rows have. So a new objective takes one line here and code that
makes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Objective:
    """One term of the loss.

    Attributes:
        name: of the rows that it is learnt from, and of its fields in the log.
        weight: what its loss is multiplied by before the objectives are added.
    """

    name: str
    weight: float = 1.0


DIRECT = Objective("direct")
REFINE = Objective("refine")
OBJECTIVES: list[Objective] = [DIRECT, REFINE]
"""In the order of every tensor with one value per objective."""


def objective_index(name: str) -> int:
    """The place in `OBJECTIVES` of the objective with this name.

    Raises:
        InvalidRequest: no objective has it.
    """
    names = [objective.name for objective in OBJECTIVES]
    if name not in names:
        raise InvalidRequest("objective", f"must be one of {', '.join(names)}, got {name!r}")
    return names.index(name)
