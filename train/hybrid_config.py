"""The settings of a hybrid set."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig:
    """How rows are made of problems, sets and targets.

    Attributes:
        layouts: of refinement rows.
        in_turn: each set takes the next of `layouts`, where one may come several times to weigh
            more; otherwise each set is there in every layout.
        mix: share of direct rows in the training split, exact to one row: the objective that has
            too many loses rows, drawn by the seed. The held-out split is left whole.
        rows: of the training split at most; what is more is dropped as the mix is. None keeps all.
        max_tokens: longest row; longer ones are dropped.
        held_out: share of the problems, by a hash of their ids alone, whose rows are not learnt.
        seed: of the rows that the mix drops.
    """

    layouts: tuple[Layout, ...] = LAYOUTS
    in_turn: bool = False
    mix: float = 0.5
    rows: int | None = None
    max_tokens: int = 16_384
    held_out: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if not self.layouts or set(self.layouts) - set(LAYOUTS):
            raise InvalidRequest("layouts", f"must be of {LAYOUTS}, got {self.layouts}")
        if not self.in_turn and len(set(self.layouts)) < len(self.layouts):
            raise InvalidRequest("layouts", "one comes twice, which means something only in turn")
        if not 0 <= self.mix <= 1:
            raise InvalidRequest("mix", f"must be between 0 and 1, got {self.mix}")
        if self.rows is not None and self.rows < 1:
            raise InvalidRequest("rows", f"must be at least 1, got {self.rows}")
        if not 0 <= self.held_out < 1:
            raise InvalidRequest("held_out", f"must be at least 0 and below 1, got {self.held_out}")
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens", f"must be at least 1, got {self.max_tokens}")

    @property
    def turns(self) -> list[tuple[Layout, ...]]:
        """The layouts of one set after another."""
        return [(one,) for one in self.layouts] if self.in_turn else [self.layouts]
