"""Checksums of a checkpoint's files, written with it: damage is noticed before anything is read."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemWriter, Metadata, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError
from train.files import whole_file

CHECKSUMS = "checksums.json"
CONFIG = "config.json"
_PIECE = 1 << 24


class ChecksumWriter(FileSystemWriter):
    """Writes a checkpoint as torch does. Each rank adds the checksums of the files that it wrote,
    and the first rank puts them together in `checksums.json`, the last file.

    Args:
        folder: of the checkpoint.
        config: the settings of the run. The checkpoint gets a copy, if the file is there.
    """

    def __init__(self, folder: Path, config: Path) -> None:
        super().__init__(folder)
        self._config = config

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files, then their checksums.

        Raises:
            OSError: e.g. the disk is full.
        """
        try:
            written = super().write_data(plan, planner)
        except RuntimeError as error:
            # After a write that failed torch complains of its place in the file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        names = {result.storage_data.relative_path for result in written.wait()}
        if names:
            _write(Path(self.path), _part(min(names)), names)
        return written

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata and the checksums of everything; the first rank calls it."""
        super().finish(metadata, results)
        folder = Path(self.path)
        sums: dict[str, Any] = {}
        names = [{result.storage_data.relative_path for result in rank} for rank in results]
        for part in [folder / _part(min(one)) for one in names if one]:
            sums |= read_json(part)
            part.unlink()
        own = {".metadata"}
        if self._config.is_file():
            shutil.copy(self._config, folder / CONFIG)
            own.add(CONFIG)
        _write(folder, CHECKSUMS, own, sums)


def _part(first_file: str) -> str:
    return f"{first_file}.checksums"


def _write(folder: Path, name: str, files: set[str], known: dict[str, Any] | None = None) -> None:
    sums = {file: checksum(folder / file) for file in sorted(files)}
    with whole_file(folder / name) as file:
        json.dump({**(known or {}), **sums}, file)


def checksum(file: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE):
            found = zlib.crc32(piece, found)  # frees the interpreter's lock
    return found


def find_damage(folder: Path, part: int, parts: int) -> str:
    """What is wrong with a checkpoint, "" if nothing is.

    Args:
        folder: of the checkpoint.
        part: number of the caller.
        parts: callers; each reads its part of the files.
    """
    try:
        sums = read_json(folder / CHECKSUMS)
        if ".metadata" not in sums:
            return f"{CHECKSUMS} is not whole"
        for name in sorted(sums)[part::parts]:
            if checksum(folder / name) != sums[name]:
                return f"{name} is damaged"
    except (CheckpointError, OSError) as error:
        return str(error)
    return ""
