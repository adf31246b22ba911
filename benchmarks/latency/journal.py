"""The cells that were measured, on disk as they come: the same command goes on behind them.

FOLDER/settings.json    what all cells have in common; other settings are refused
FOLDER/cells.jsonl      a `Measured` a line, append only
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.latency.cell import Cell, Measured
from gsr_engine.errors import InvalidRequest
from train.files import claim, open_appended, read_jsonl

SETTINGS, CELLS = "settings.json", "cells.jsonl"
FREE = ("model",)
"""Names of settings that may differ: the digest of the weights says what is measured."""


class Journal:
    """The cells so far. Use it as a context manager.

    A grid may be measured in parts: every cell with these settings is kept, also one that another
    command asked for.

    Raises:
        CheckpointError: the folder holds cells with other settings; the message names them.
        InvalidRequest: a line is no cell; the message names file and line.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        claim(folder / SETTINGS, settings, "cells", FREE)
        path = folder / CELLS
        self._cells: dict[Cell, Measured] = {}
        for where, row, *_ in read_jsonl(path, "out", appended=True) if path.exists() else ():
            try:
                measured = Measured.from_dict(row)
            except (KeyError, TypeError) as error:
                raise InvalidRequest("out", f"{where} is not a cell: {error!r}") from None
            self._cells[measured.cell] = measured
        self._file = open_appended(path)

    def get(self, cell: Cell) -> Measured | None:
        """What was measured of a cell; None if nothing was."""
        return self._cells.get(cell)

    def add(self, measured: Measured) -> None:
        """Append a cell; it is with the operating system when this returns."""
        self._file.write(json.dumps(measured.as_dict()) + "\n")
        self._file.flush()
        self._cells[measured.cell] = measured

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
