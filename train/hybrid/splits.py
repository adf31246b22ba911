"""Which rows of a hybrid set are learnt, which are held out, and which are dropped."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import numpy.typing as npt

from gsr_engine.seeds import derive_seed
from train.dataset import Split
from train.hybrid.inputs import HybridConfig
from train.objectives import DIRECT

Indices = npt.NDArray[np.int64]


def choose_rows(
    rows: datasets.Dataset, config: HybridConfig, dropped: Counter[str]
) -> dict[Split, Indices]:
    """Indices of the rows of each split, ascending; `dropped` counts the other rows."""
    columns = rows.data
    fits = columns["length"].to_numpy() <= config.max_tokens
    objectives = np.array(columns["objective"].to_pylist(), np.str_)
    _count(dropped, "too long", objectives[~fits])
    ids = columns["problem_id"].to_pylist()
    held = np.array([is_held_out(one, config.held_out) for one in ids], np.bool_)
    learnt = fits & ~held
    direct = objectives == DIRECT.name
    sides = [np.flatnonzero(learnt & direct), np.flatnonzero(learnt & ~direct)]
    rng = np.random.default_rng(config.seed)
    counts = mixed_counts(len(sides[0]), len(sides[1]), config.mix, config.rows)
    chosen = [
        rng.choice(side, count, replace=False) if count < len(side) else side
        for side, count in zip(sides, counts, strict=True)
    ]
    train = np.sort(np.concatenate(chosen))
    _count(dropped, "mix", objectives[np.setdiff1d(np.flatnonzero(learnt), train)])
    return {"train": train, "held_out": np.flatnonzero(fits & held)}


def _count(dropped: Counter[str], reason: str, objectives: npt.NDArray[np.str_]) -> None:
    dropped.update(f"{name}: {reason}" for name in objectives.tolist())


def is_held_out(problem_id: str, share: float) -> bool:
    """Whether a problem is held out; this depends only on its id and the share."""
    return derive_seed(0, *problem_id.encode()) < share * 2**63


def mixed_counts(direct: int, other: int, mix: float, rows: int | None = None) -> tuple[int, int]:
    """Most direct and most other rows such that direct ones are `mix` of all, to the nearest row.

    Args:
        direct: direct rows at hand.
        other: rows of all other objectives together; they are thinned as one.
        mix: share of direct rows, between 0 and 1.
        rows: limit of both together.
    """
    if direct * (1 - mix) > other * mix:
        direct = round(other * mix / (1 - mix))
    elif mix > 0:
        other = round(direct * (1 - mix) / mix)
    if rows is not None and direct + other > rows:
        direct = min(direct, max(rows - other, round(rows * mix)))
        other = rows - direct
    return direct, other
