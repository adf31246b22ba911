"""The results of an unfinished run, on disk as they come: the same command goes on from them.

    FOLDER/settings.json     the settings of the run; other settings are refused
    FOLDER/results.jsonl     one result a line, append only

A result is what one method gave for one problem. A killed run loses only what was being generated,
and perhaps a torn last line. Every line has a checksum over its result and the settings. So a
damaged line, or one of another run, is never taken: its result is generated again.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError
from train.command import log
from train.files import claim, open_appended

FREE = ("model", "data")
"""Names of settings that may differ: the digests of weights and problems say what they hold."""


class Journal:
    """The results so far of a run, by method and by the problem's index.

    Use it as a context manager, or `close` it.

    Raises:
        CheckpointError: the folder holds a run with other settings; the message names them.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        path = folder / "results.jsonl"
        _claim(folder / "settings.json", settings, begun=path.exists() and path.stat().st_size > 0)
        bound = {name: value for name, value in settings.items() if name not in FREE}
        self._start = zlib.crc32(json.dumps(bound, sort_keys=True).encode())
        self._values = dict(self._read(path)) if path.exists() else {}
        self._file = open_appended(path)

    def _read(self, path: Path) -> Iterator[tuple[tuple[str, int], Any]]:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    checksum, method, index, value = json.loads(line)
                    if checksum != self._checksum(method, index, value):
                        raise ValueError
                except (ValueError, TypeError, RecursionError):  # not JSON, or not such a line
                    log.info("%s line %s is damaged: it is generated again", path, number)
                else:
                    yield (method, index), value

    def _checksum(self, method: str, index: int, value: Any) -> int:
        return zlib.crc32(json.dumps([method, index, value]).encode(), self._start)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, method: str, index: int) -> Any:
        """The result of a method for a problem; KeyError if there is none yet."""
        return self._values[method, index]

    def missing(self, method: str, indices: Iterable[int]) -> list[int]:
        """The problems that the method has no result for, in order."""
        return [index for index in indices if (method, index) not in self._values]

    def add(self, method: str, index: int, value: Any) -> None:
        """Append a result of plain values; it is with the operating system when this returns."""
        line = [self._checksum(method, index, value), method, index, value]
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._values[method, index] = value

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
