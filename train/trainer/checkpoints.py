"""Training state on disk: sharded, and written while training goes on.

A checkpoint gets its name when it is complete.

OUT/checkpoints/step-00000200/           as torch.distributed.checkpoint writes it
OUT/checkpoints/step-00000400.partial/   being written, or left by a crash
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from gsr_engine.errors import CheckpointError
from train.files import replace_folder
from train.trainer.model import Trainee
from train.trainer.world import World

_NAME = re.compile(r"step-(\d{8})")
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


class Checkpoints:
    """The checkpoints of a run.

    A state is the parameters (adapters only, with LoRA), the optimizer's moments and the step.
    Nothing else is needed: rows are a function of the step, and no layer draws random numbers.

    Args:
        folder: folder of the run.
        trainee, optimizer: what is saved and restored.
        world: the processes of the run; all of them call each method.
        keep: number of checkpoints to keep; older ones are removed.
    """

    def __init__(
        self,
        folder: Path,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        world: World,
        keep: int,
    ) -> None:
        self._folder = folder / "checkpoints"
        self._trainee = trainee
        self._optimizer = optimizer
        self._world = world
        self._keep = keep
        self._writing: tuple[Future[Any], Path] | None = None
        self._last = -1

    def save(self, step: int) -> None:
        """Begin to write the state, after the previous checkpoint is complete."""
        if step == self._last:
            return
        self.finish()
        self._last = step
        partial = self._folder / f"step-{step:08d}.partial"
        if self._world.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self._world.wait()
        writing = dcp.async_save(
            self._state(), checkpoint_id=str(partial), process_group=self._world.saving
        )
        self._writing = cast("Future[Any]", writing), partial

    def publish(self) -> None:
        """Give the checkpoint its name if it is complete; otherwise a later call does.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writing is not None and self._writing[0].done():
            (done, partial), self._writing = self._writing, None
            try:
                done.result()
            except Exception as error:
                raise CheckpointError(f"{partial} cannot be written: {error}") from error
            # The first rank ends last: it writes the metadata after the tensors of all ranks.
            if self._world.rank == 0:
                replace_folder(partial, partial.with_suffix(""))
                for _, old in _steps(self._folder)[: -self._keep]:
                    shutil.rmtree(old, ignore_errors=True)

    def finish(self) -> None:
        """Wait on all ranks until the checkpoint is complete.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writing is not None:
            wait([self._writing[0]])
            self.publish()
        self._world.wait()

    def load_latest(self) -> int:
        """Restore the last complete state, on any number of ranks.

        Returns its step, or 0 if there is no checkpoint.
        """
        found = _steps(self._folder)
        if not found:
            return 0
        step, folder = found[-1]
        state = self._state()
        dcp.load(state, checkpoint_id=str(folder))
        set_state_dict(
            self._trainee,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_OPTIONS,
        )
        self._last = step
        return step

    def _state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._trainee, self._optimizer, options=_OPTIONS)
        # The options leave out a frozen parameter under its first name only; a tied head has two.
        named = self._trainee.named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in named if parameter.requires_grad}
        return {
            "model": {name: value for name, value in model.items() if name in trained},
            "optimizer": optimizer,
        }


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of the complete checkpoints, in order."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)
