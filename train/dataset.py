"""The hybrid set on disk: rows of token ids, as `datasets` stores them (Arrow).

FOLDER/train/       the rows that are learnt from
FOLDER/held_out/    rows of other problems, for losses during training; may be missing
FOLDER/gsr.json     prompts, layouts and numbers of candidates that the rows were made with
FOLDER/card.json    the data card: counts, sources, settings; card.md is the same for people
FOLDER/decontamination.jsonl    problems that were left out, with the reasons
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import Layout
from train.files import whole_file
from train.rows import Row

SPLITS = ("train", "held_out")
Split = Literal["train", "held_out"]

FEATURES = datasets.Features(
    {
        "objective": datasets.Value("string"),
        "token_ids": datasets.List(datasets.Value("int32")),
        "target_start": datasets.Value("int32"),
        "fork": datasets.Value("int32"),
        "branch_lengths": datasets.List(datasets.Value("int32")),
        "join_position": datasets.Value("int32"),
        "length": datasets.Value("int32"),
        "problem_id": datasets.Value("string"),
        "layout": datasets.Value("string"),
        "k": datasets.Value("int32"),
        "num_correct": datasets.Value("int32"),
        "source": datasets.Value("string"),
    }
)
_LISTS = ("token_ids", "branch_lengths")


@dataclass(frozen=True, slots=True)
class Example:
    """A row and where it comes from.

    Attributes:
        row: the training sequence.
        problem_id: of the problem that it is about.
        layout: in which the row shows candidates; "" if it shows none, as direct rows do.
        k, num_correct: candidates shown, and how many of them are right: 0 where none are shown,
            -1 if they were not checked.
        source: writer of the target, e.g. the teacher's name.
    """

    row: Row
    problem_id: str
    layout: Layout | Literal[""] = ""
    k: int = 0
    num_correct: int = 0
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The columns of FEATURES."""
        row = self.row
        return {
            "objective": row.objective,
            "token_ids": row.token_ids,
            "target_start": row.target_start,
            "fork": row.fork,
            "branch_lengths": row.branch_lengths,
            "join_position": row.join_position,
            "length": len(row),
            "problem_id": self.problem_id,
            "layout": self.layout,
            "k": self.k,
            "num_correct": self.num_correct,
            "source": self.source,
        }


def table_of(examples: Iterable[Example]) -> pa.Table:
    """Rows as a table of Arrow, in memory."""
    columns: dict[str, list[Any]] = {name: [] for name in FEATURES}
    for example in examples:
        for name, value in example.as_dict().items():
            # As arrays, because a list of Python's integers takes nine times the memory.
            column = np.asarray(value, np.int32) if name in _LISTS else value
            columns[name].append(column)
    schema = FEATURES.arrow_schema
    return pa.table({one.name: pa.array(columns[one.name], one.type) for one in schema}, schema)


def write_part(file: Path, examples: Iterable[Example]) -> None:
    """Write some of the rows, completely or not at all."""
    table = table_of(examples)
    with whole_file(file, "wb") as whole, pa.ipc.new_stream(whole, table.schema) as writer:
        writer.write_table(table)


def read_parts(files: Iterable[Path]) -> datasets.Dataset:
    """Read the rows of all parts, memory-mapped, in the order of the files."""
    none = datasets.Dataset(table_of(()))
    return datasets.concatenate_datasets(
        [none, *(datasets.Dataset.from_file(str(one)) for one in files)]
    )


def write_split(folder: Path, split: Split, rows: datasets.Dataset) -> None:
    """Write the rows of a split into the folder of a set."""
    rows.save_to_disk(str(folder / split))


def row_kinds(objectives: Sequence[str], layouts: Sequence[str]) -> list[str]:
    """What rows are counted by: their layout, or the objective of a row that has none."""
    return [layout or name for name, layout in zip(objectives, layouts, strict=True)]


class RowSet:
    """The rows of a split: memory-mapped, read one by one.

    Attributes:
        objectives, layouts: text of every row.
        kinds: of every row, as `row_kinds` names them.
        lengths, num_targets, num_correct: int64 of every row.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self._rows = rows.with_format("numpy")
        table = rows.data
        self.objectives: list[str] = table["objective"].to_pylist()
        self.layouts: list[str] = table["layout"].to_pylist()
        self.kinds = row_kinds(self.objectives, self.layouts)
        self.lengths = table["length"].to_numpy().astype(np.int64)
        self.num_targets = self.lengths - table["target_start"].to_numpy()
        self.num_correct = table["num_correct"].to_numpy().astype(np.int64)

    @classmethod
    def load(cls, folder: Path, split: Split = "train") -> RowSet:
        """Read a split of a folder that `train.build` wrote.

        Raises:
            InvalidRequest: the split is missing, empty or damaged.
        """
        path = folder / split
        if not path.is_dir():
            raise InvalidRequest("data", f"{folder} has no {split} split; train.build writes it")
        try:
            rows = datasets.load_from_disk(str(path))
            if rows.features != FEATURES:
                raise ValueError(f"its columns are {', '.join(rows.features)}")
            lengths = pc.list_value_length(rows.data["token_ids"])
            starts = rows.data["target_start"]
            inside = pc.and_(pc.greater(starts, 0), pc.less(starts, lengths))
            if not pc.all(pc.and_(pc.equal(lengths, rows.data["length"]), inside)).as_py():
                raise ValueError("a row has another length than it says, or no target")
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:  # arrow's, too
            raise InvalidRequest(
                "data", f"{path} is damaged, build it again: {error!s:.200}"
            ) from None
        if not len(rows):
            raise InvalidRequest("data", f"{path} holds no row")
        return cls(rows)

    def largest_id(self) -> int:
        """The largest token id of all rows; it reads them once."""
        chunks = self._rows.data["token_ids"].chunks
        return max(pc.max(chunk.flatten()).as_py() or 0 for chunk in chunks)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Row:
        raw = self._rows[index]
        return Row(
            objective=raw["objective"],
            token_ids=raw["token_ids"],
            target_start=int(raw["target_start"]),
            fork=int(raw["fork"]),
            branch_lengths=[int(one) for one in raw["branch_lengths"]],
            join_position=int(raw["join_position"]),
        )
