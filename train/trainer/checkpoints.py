"""Training state on disk: sharded, and written while training goes on.

A checkpoint gets its name when it is complete.

OUT/checkpoints/step-00000200/           as torch.distributed.checkpoint writes it, checksums,
                                         and a copy of OUT/config.json
OUT/checkpoints/step-00000400.partial/   being written, or left by a crash
OUT/checkpoints/step-00000200.damaged/   set aside, because its files are not what was written
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError
from train.command import log
from train.files import replace_folder, whole_file
from train.trainer.checksums import CONFIG, ChecksumWriter, find_damage
from train.trainer.model import Trainee
from train.trainer.world import World

_NAME = re.compile(r"step-(\d{8})")
_OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


class Checkpoints:
    """The checkpoints of a run.

    A state is the parameters (adapters only, with LoRA), the optimizer's moments, the step, and how
    many steps in a row were skipped up to it. Nothing else is needed: rows are a function of the
    step, and no layer draws random numbers.

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
        self._config = folder / CONFIG
        self._folder = folder / "checkpoints"
        self._trainee = trainee
        self._optimizer = optimizer
        self._world = world
        self._keep = keep
        self._writing: tuple[Future[Any], Path] | None = None
        self._last = -1

    def save(self, step: int, skipped: int = 0) -> None:
        """Begin to write the state, after the previous checkpoint is complete.

        Raises:
            CheckpointError: the previous one could not be written.
        """
        if step == self._last:
            return
        self.finish()
        unfinished = self._folder / f"step-{step:08d}.partial"
        if self._world.rank == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
        self._world.wait()
        writing = dcp.async_save(
            self._state(skipped),
            storage_writer=ChecksumWriter(unfinished, self._config),
            process_group=self._world.saving,
        )
        self._last = step
        self._writing = cast("Future[Any]", writing), unfinished

    def publish(self) -> None:
        """Give the checkpoint its name if it is complete; otherwise a later call does.

        Raises:
            CheckpointError: it could not be written.
        """
        if self._writing is not None and self._writing[0].done():
            (done, unfinished), self._writing = self._writing, None
            try:
                done.result()
            except (Exception, CheckpointException) as error:  # the latter is no Exception
                self._last = -1
                if self._world.rank == 0:
                    shutil.rmtree(unfinished, ignore_errors=True)  # the room that it takes
                raise CheckpointError(
                    f"{unfinished.with_suffix('')} cannot be written: {_reason(error)}; the same "
                    "command goes on from the checkpoint before it"
                ) from None
            # The first rank ends last: it writes the metadata after the tensors of all ranks.
            if self._world.rank == 0:
                replace_folder(unfinished, unfinished.with_suffix(""))
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

    def load_latest(self) -> tuple[int, int]:
        """Restore the last state whose files are whole, on any number of ranks.

        A damaged one is set aside, and the log says so.

        Returns:
            Its step, and how many steps in a row were skipped up to it; 0, 0 if there is none.

        Raises:
            CheckpointError: there are checkpoints, but all are damaged.
        """
        found = self._world.first(lambda: _steps(self._folder))
        damaged: list[Path] = []
        for step, folder in reversed(found):
            if self._is_whole(folder):
                self._world.first(partial(_set_aside, damaged))
                skipped = self._load(folder)
                self._last = step
                return step, skipped
            damaged.append(folder)
        if damaged:
            raise CheckpointError(
                f"all {len(found)} checkpoints under {self._folder} are damaged; remove that "
                "folder to begin anew"
            )
        return 0, 0

    def _is_whole(self, folder: Path) -> bool:
        """Whether all files are as written; each rank reads some of them."""
        damage = find_damage(folder, self._world.rank, self._world.size)
        if damage:
            log.warning("sft: the checkpoint %s is left out: %s", folder, damage)
        return not any(self._world.largest([bool(damage)]))

    def _load(self, folder: Path) -> int:
        state = self._state(0)
        try:
            dcp.load(state, checkpoint_id=str(folder))
        except (Exception, CheckpointException) as error:
            raise CheckpointError(f"{folder} is not of this run: {_reason(error)}") from None
        set_state_dict(
            self._trainee,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_OPTIONS,
        )
        return int(state["skipped"])

    def _state(self, skipped: int) -> dict[str, Any]:
        model, optimizer = get_state_dict(self._trainee, self._optimizer, options=_OPTIONS)
        # The options leave out a frozen parameter under its first name only; a tied head has two.
        named = self._trainee.named_parameters(remove_duplicate=False)
        trained = {name for name, parameter in named if parameter.requires_grad}
        kept = {name: value for name, value in model.items() if name in trained}
        return {"model": kept, "optimizer": optimizer, "skipped": torch.tensor(skipped)}


def restore_config(out: Path) -> None:
    """Take the settings of a run from its last checkpoint, if config.json is damaged or gone.

    Without them nobody knows which run the checkpoints belong to.
    """
    try:
        read_json(out / CONFIG)
        return
    except CheckpointError as error:
        damage = error
    for _, folder in reversed(_steps(out / "checkpoints")):
        try:
            read_json(folder / CONFIG)
        except CheckpointError:
            continue
        with whole_file(out / CONFIG, "wb") as file:
            file.write((folder / CONFIG).read_bytes())
        log.warning("sft: %s: it is taken from %s", damage, folder)
        return


def _set_aside(damaged: Iterable[Path]) -> None:
    """Free the names for the checkpoints to come."""
    for folder in damaged:
        replace_folder(folder, folder.with_suffix(".damaged"))


def _reason(error: BaseException) -> str:
    """What went wrong, in a line; torch gives an error for every rank, with its traceback."""
    errors = error.failures.values() if isinstance(error, CheckpointException) else [error]
    first = next(iter(errors), error)
    cause = first[0] if isinstance(first, tuple) else first
    return (str(cause).strip().splitlines() or [type(cause).__name__])[-1]


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of the complete checkpoints, in order."""
    found = [(_NAME.fullmatch(path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match)
