"""Problems with their gold answers: from JSONL or Parquet, or a data set of the hub.

`python -m train.problems` reads any of these and writes the JSONL that the other stages read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from gsr_engine.errors import InvalidRequest
from train.command import run_command
from train.files import read_jsonl, whole_file

Located = tuple[str, dict[str, Any]]
"""Where a row is, for messages, and the row."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem.

    Attributes:
        text: the problem itself, without any instruction.
        answer: the gold answer; None if it is unknown.
        solution: a worked solution that came with the problem.
        source: origin of the problem.
        size: group of the problem in tables of results; "" for no grouping.
    """

    id: str
    text: str
    answer: str | None
    solution: str | None = None
    source: str = ""
    size: str = ""


_COLUMNS = {one.name: one.name for one in fields(Problem) if one.name != "text"}
_COLUMNS["problem"] = "problem"


def parse_columns(text: str) -> dict[str, str]:
    """Columns by field, from "problem=question,answer=final_answer"; "answer=" if there is none.

    Raises:
        InvalidRequest: the text is not such a list, or names a field that problems do not have.
    """
    columns = {}
    for pair in filter(None, text.split(",")):
        name, equals, column = (part.strip() for part in pair.partition("="))
        if not equals or name not in _COLUMNS:
            raise InvalidRequest(
                "columns", f"must be FIELD=COLUMN with {', '.join(_COLUMNS)}, got {pair!r}"
            )
        columns[name] = column
    return columns


def load_problems(
    data: str | Path, columns: Mapping[str, str] | None = None, split: str = "train"
) -> list[Problem]:
    """All of `iterate_problems`.

    Raises:
        InvalidRequest: there are none; or as there.
    """
    problems = list(iterate_problems(data, columns, split))
    if not problems:
        raise InvalidRequest("data", f"{data} holds no problems")
    return problems


def iterate_problems(
    data: str | Path, columns: Mapping[str, str] | None = None, split: str = "train"
) -> Iterator[Problem]:
    """Problems of a JSONL or Parquet file, of a folder of such files, or of a hub id.

    Args:
        data: a path that exists, else a hub id.
        columns: column by field, where the names differ. `problem`, `answer` and mapped columns
            must exist, unless a field is mapped to "". Other columns are optional. A null or empty
            answer means that it is unknown. The default id is the row's number.
        split: of a hub data set, e.g. "train[:1000]".

    Raises:
        InvalidRequest: a row lacks a column or holds no text; the message names file and row.
    """
    mapped = {**_COLUMNS, **(columns or {})}
    needed = {"problem", "answer", *(columns or ())}
    wanted = set(mapped.values())
    rows = _rows(Path(data)) if Path(data).exists() else _hub_rows(str(data), split, wanted)
    for number, (where, row) in enumerate(rows, start=1):
        try:
            yield _problem(row, mapped, needed, number)
        except KeyError as error:
            raise InvalidRequest("data", f"{where}: there is no {error}") from None
        except (TypeError, ValueError) as error:
            raise InvalidRequest("data", f"{where}: {error}") from None


def _problem(
    row: Mapping[str, Any], columns: Mapping[str, str], needed: set[str], number: int
) -> Problem:
    found: dict[str, str | None] = {}
    for name, column in columns.items():
        value = row[column] if column and name in needed else row.get(column)
        if not isinstance(value, str | int | float | None):
            raise TypeError(f"{column} must be text, got {type(value).__name__}")
        found[name] = None if value in (None, "") else str(value)
        (found[name] or "").encode()  # a lone surrogate cannot be written
    text = found["problem"]
    if text is None:
        raise TypeError(f"{columns['problem']} is empty")
    return Problem(
        id=found["id"] or str(number),
        text=text,
        answer=found["answer"],
        solution=found["solution"],
        source=found["source"] or "",
        size=found["size"] or "",
    )


def _rows(path: Path) -> Iterator[Located]:
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix in (".jsonl", ".parquet"))
        for file in files:
            yield from _rows(file)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        yield from ((line.where, line.row) for line in read_jsonl(path))


def _parquet_rows(path: Path) -> Iterator[Located]:
    import pyarrow  # noqa: PLC0415  # of the train extra, as `datasets` below
    from pyarrow import parquet  # noqa: PLC0415

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except pyarrow.ArrowException as error:
        raise InvalidRequest("data", f"{path} after row {number}: {error}") from None


def _hub_rows(name: str, split: str, wanted: set[str]) -> Iterator[Located]:
    import datasets  # noqa: PLC0415

    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InvalidRequest("data", f"{name!r} is no path, and as a hub id: {error}") from None
    # Solutions may be most of the bytes.
    rows = rows.select_columns([column for column in rows.column_names if column in wanted])
    for number, row in enumerate(rows, start=1):
        yield f"{name} {split} row {number}", row


def distinct(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Problems without repetitions; spaces and letter case do not make a difference.

    OpenMathReasoning, for example, has a row for every solution of a problem.
    """
    seen = set()
    for problem in problems:
        key = hash(re.sub(r"\s+", " ", problem.text).strip().lower())
        if key not in seen:
            seen.add(key)
            yield problem


def main(
    data: Annotated[str, typer.Option(help="JSONL, Parquet, a folder of them, or a hub id.")],
    out: Annotated[Path, typer.Option(help="JSONL to write.")],
    columns: Annotated[str, typer.Option(help="FIELD=COLUMN,... where names differ.")] = "",
    split: Annotated[str, typer.Option(help="Of a hub data set.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Most problems to write.")] = None,
    answered: Annotated[bool, typer.Option(help="Leave out those without an answer.")] = True,
) -> None:
    """Write distinct problems in the form that the other stages read."""
    rows = iterate_problems(data, parse_columns(columns), split)
    kept = distinct(one for one in rows if one.answer is not None or not answered)
    written = 0
    with whole_file(out) as file:
        for problem in islice(kept, limit):
            values = asdict(problem)
            line = {"problem": values.pop("text"), **values}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            written += 1
        if not written:
            raise InvalidRequest("data", f"{data} holds no problems")
    print(f"{out}: {written} problems")


if __name__ == "__main__":
    run_command("problems", lambda: typer.run(main))
