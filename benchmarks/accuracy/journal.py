"""The results of an unfinished run, on disk as they come: the same command goes on from them.

    FOLDER/settings.json     the settings of the run; other settings are refused
    FOLDER/results.jsonl     one result a line, append only

A result is what one method gave for one problem in one repeat. A killed run loses only what was
being generated, and perhaps a torn last line. Every line has a checksum over its result and the
settings. So a damaged line, or one of another run, is never taken: its result is generated again.
"""

from __future__ import annotations

import fcntl
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError
from train.command import log
from train.files import claim, open_appended

FREE = ("model", "data", "weak_model", "refiner", "reward_model")
"""Names of settings that may differ: the digests of weights and problems say what they hold."""

Key = tuple[int, str, int]
"""Repeat, method, and the problem's index."""


class Journal:
    """The results so far of a run, by repeat, method and the problem's index.

    Only their places are in memory; a result is read from the disk whenever it is asked for. Use it
    as a context manager, or `close` it.

    Raises:
        CheckpointError: the folder holds a run with other settings; the message names them. Or
            another process has the journal open.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        path = folder / "results.jsonl"
        self._lock = _locked(path)
        try:
            _claim(folder / "settings.json", settings, begun=path.stat().st_size > 0)
        except CheckpointError:
            self._lock.close()
            raise
        bound = {name: value for name, value in settings.items() if name not in FREE}
        self._start = zlib.crc32(json.dumps(bound, sort_keys=True).encode())
        self._file = open_appended(path)
        self._end = path.stat().st_size
        self._lines = path.open("rb")
        self._places = dict(self._read(path))

    def _read(self, path: Path) -> Iterator[tuple[Key, int]]:
        offset = 0
        for number, line in enumerate(self._lines, start=1):
            try:
                checksum, *key, value = json.loads(line)
                if checksum != self._checksum(key, value):
                    raise ValueError
                repeat, method, index = key
            except (ValueError, TypeError, RecursionError):  # not JSON, or not such a line
                log.info("%s line %s is damaged: it is generated again", path, number)
            else:
                yield (repeat, method, index), offset
            offset += len(line)

    def _checksum(self, key: Sequence[Any], value: Any) -> int:
        return zlib.crc32(json.dumps([*key, value]).encode(), self._start)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, repeat: int, method: str, index: int) -> Any:
        """The result of a method for a problem; KeyError if there is none yet."""
        self._lines.seek(self._places[repeat, method, index])
        return json.loads(self._lines.readline())[-1]

    def missing(self, repeat: int, method: str, indices: Iterable[int]) -> list[int]:
        """The problems that the method has no result for, in order."""
        return [index for index in indices if (repeat, method, index) not in self._places]

    def add(self, repeat: int, method: str, index: int, value: Any) -> None:
        """Append a result of plain values; it is with the operating system when this returns."""
        key = (repeat, method, index)
        line = json.dumps([self._checksum(key, value), *key, value]) + "\n"
        self._file.write(line)
        self._file.flush()
        self._places[key] = self._end
        self._end += len(line)  # of ASCII characters alone

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._lines.close()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(path: Path) -> IO[bytes]:
    """The file, open and locked until it is closed: the places of two writers would be wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(f"another process goes on with {path.parent}") from None
    return file


def _claim(file: Path, settings: Mapping[str, Any], *, begun: bool) -> None:
    """Claim the folder, unless a run with other settings has results in it."""
    try:
        readable = file.exists() and bool(read_json(file))
    except CheckpointError as error:
        log.info("%s: it is written anew", error)
        readable = False
    if not (begun and readable):
        file.unlink(missing_ok=True)
    claim(file, settings, "an unfinished run", FREE)
