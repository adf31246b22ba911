"""Which rows of a hybrid set are learnt, which are held out, and which are dropped."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import numpy.typing as npt

from gsr_engine.seeds import derive_seed
from train.dataset import Split
from train.hybrid.inputs import HybridConfig
from train.rows import OBJECTIVES

Indices = npt.NDArray[np.int64]


def choose_rows(
    rows: datasets.Dataset, config: HybridConfig, dropped: Counter[str]
) -> dict[Split, Indices]:
    """Which rows make each split, ascending; `dropped` counts the others."""
    columns = rows.data
    fits = columns["length"].to_numpy() <= config.max_tokens
    direct = np.array(columns["objective"].to_pylist()) == "direct"
    dropped["direct: too long"] += int((direct & ~fits).sum())
    dropped["refine: too long"] += int((~direct & ~fits).sum())
    ids = columns["problem_id"].to_pylist()
    held = np.array([is_held_out(one, config.held_out) for one in ids])
    learnt = fits & ~held
    sides = [np.flatnonzero(learnt & direct), np.flatnonzero(learnt & ~direct)]
    rng = np.random.default_rng(config.seed)
    mixed = []
    counts = mixed_counts(len(sides[0]), len(sides[1]), config.mix, config.rows)
    for name, side, count in zip(OBJECTIVES, sides, counts, strict=True):
        dropped[f"{name}: mix"] += len(side) - count
        mixed.append(rng.choice(side, count, replace=False) if count < len(side) else side)
    return {"train": np.sort(np.concatenate(mixed)), "held_out": np.flatnonzero(fits & held)}


def is_held_out(problem_id: str, share: float) -> bool:
    """Whether a problem is held out: a matter of its id and the share alone."""
    return derive_seed(0, *problem_id.encode()) < share * 2**63


def mixed_counts(direct: int, refine: int, mix: float, rows: int | None = None) -> tuple[int, int]:
    """Most rows of each objective such that direct ones are `mix` of all, to the nearest row."""
    if direct * (1 - mix) > refine * mix:
        direct = round(refine * mix / (1 - mix))
    elif mix > 0:
        refine = round(direct * (1 - mix) / mix)
    if rows is not None and direct + refine > rows:
        direct = min(direct, max(rows - refine, round(rows * mix)))
        refine = rows - direct
    return direct, refine
