"""Losses on held-out rows, during training."""

from __future__ import annotations

import torch

from train.dataset import RowSet
from train.objectives import OBJECTIVES
from train.trainer.batches import packs_of_rank
from train.trainer.config import SftConfig
from train.trainer.lora import without_dropout
from train.trainer.model import Trainee
from train.trainer.world import World


class HeldOutLosses:
    """Measures each objective's mean loss on the rows of the held-out split."""

    def __init__(self, rows: RowSet, config: SftConfig, trainee: Trainee, world: World) -> None:
        self._rows = rows
        self._config = config
        self._trainee = trainee
        self._world = world

    def __call__(self, step: int) -> dict[str, float]:
        """The losses by objective, over all ranks; all of them must call it.

        Of an objective without a target it is not a number.
        """
        sums, counts = torch.zeros(2, len(OBJECTIVES), device=self._world.device)
        size, config = self._config.batch, self._config
        for begin in range(0, len(self._rows), size):
            rows = [self._rows[i] for i in range(begin, min(begin + size, len(self._rows)))]
            for pack in packs_of_rank(rows, config.pack, self._world)[0]:
                batch = pack.to(self._world.device)
                with without_dropout(self._trainee):
                    sums += self._trainee(batch)
                counts += torch.bincount(batch.objectives, minlength=len(OBJECTIVES))
        totals = self._world.sum(torch.stack([sums, counts]))
        means = (totals[0] / totals[1]).tolist()
        named = zip(OBJECTIVES, means, strict=True)
        return {f"held_out_{objective.name}": round(mean, 5) for objective, mean in named}
