"""The results of an unfinished run, on disk as they come: the same command goes on from them.

    FOLDER/settings.json     the settings of the run; other settings are refused
    FOLDER/results.jsonl     one result a line, append only

A result is what one method gave for one problem. A killed run loses only what was being generated,
and perhaps a torn last line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from gsr_engine.errors import InvalidRequest
from train.files import claim, open_appended, read_jsonl

FREE = ("model", "data")
"""Names of settings that may differ: the digests of weights and problems say what they hold."""


class Journal:
    """The results so far of a run, by method and by the problem's index.

    Use it as a context manager, or `close` it.

    Raises:
        CheckpointError: the folder holds a run with other settings; the message names them.
        InvalidRequest: a line of the file is broken.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        path, claimed = folder / "results.jsonl", folder / "settings.json"
        begun = path.exists() and path.stat().st_size > 0
        if not begun:  # a run that has no result yet keeps nothing from another one
            claimed.unlink(missing_ok=True)
        claim(claimed, settings, "an unfinished run", FREE)
        self._values: dict[tuple[str, int], Any] = {}
        if begun:
            for line in read_jsonl(path, "out", appended=True):
                try:
                    key = (line.row["method"], line.row["index"])
                    self._values.setdefault(key, line.row["value"])
                except KeyError as error:
                    raise InvalidRequest("out", f"{line.where}: there is no {error}") from None
        self._file = open_appended(path)

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
        row = {"method": method, "index": index, "value": value}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._values[method, index] = value

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
