"""Problems with their gold answers: from JSONL or Parquet, or a data set of the hub.

`python -m train.problems` reads any of these and writes the JSONL that the other stages read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_engine.errors import InvalidRequest
from gsr_engine.text.knights import FORM, parse_roles
from train.command import log, run_command
from train.files import read_jsonl, whole_file

if TYPE_CHECKING:
    import pyarrow

Located = tuple[str, dict[str, Any]]
"""Where a row is, for messages, and the row."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem.

    Attributes:
        text: the problem itself, without any instruction. A Knights-and-Knaves puzzle says at its
            end in which form it is answered.
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


_SUFFIXES = (".jsonl", ".parquet")
_COLUMNS = {one.name: one.name for one in fields(Problem) if one.name != "text"}
_COLUMNS["problem"] = "problem"


def parse_columns(text: str) -> dict[str, str]:
    """Columns by field, from "problem=question,answer=final_answer"; "answer=" if there is none.

    Raises:
        InvalidRequest: the text is not such a list, or names a field that problems do not have.
    """
    columns: dict[str, str] = {}
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
    data: str | Path,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    bad_row: Callable[[str, str], object] | None = None,
) -> Iterator[Problem]:
    """Problems of a JSONL or Parquet file, of a folder of such files, or of a hub id.

    Args:
        data: a path that exists, else a hub id, or "ID:NAME" for one of its configurations.
        columns: column by field, where the names differ. `problem`, `answer` and mapped columns
            must exist and hold text or numbers, unless a field is mapped to "". Other columns are
            optional, and one of them that holds something else is left out with a warning. Null,
            NaN and blank text mean that a value is missing. An answer may be a list of texts,
            too, which are joined by commas. The default id is a digest of the problem's text; rows
            that repeat a text are numbered.
        split: of a hub data set, e.g. "train[:1000]".
        bad_row: called with the place of a row that holds no problem and with the reason; such a
            row is left out. None raises instead, as a column that the first row lacks always does.

    Raises:
        InvalidRequest: a row lacks a column or holds no text; the message names file and row.
    """
    return (problem for _, problem in located_problems(data, columns, split, bad_row))


def located_problems(
    data: str | Path,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    bad_row: Callable[[str, str], object] | None = None,
) -> Iterator[tuple[str, Problem]]:
    """As `iterate_problems`, each problem with the place of its row, for messages."""
    mapped = {**_COLUMNS, **(columns or {})}
    needed = {"problem", "answer", *(columns or ())}
    path = Path(data)
    if path.exists():
        rows = _rows(path)
    elif path.is_absolute() or len(path.parts) > 2 or path.suffix in _SUFFIXES:
        raise InvalidRequest("data", f"there is no {path}")  # the hub would be asked for a minute
    else:
        wanted, required = set(mapped.values()), {mapped[name] for name in needed}
        rows = _hub_rows(str(data), split, wanted, required)
    reader = _RowReader(mapped, needed)
    for number, (where, row) in enumerate(rows):
        try:
            yield where, reader.problem(row)
        except (KeyError, TypeError, ValueError) as error:
            reason, lacks = str(error), isinstance(error, KeyError)
            if lacks:
                columns_here = ", ".join(map(repr, row)) or "nothing"
                reason = (
                    f"there is no {error}, but {columns_here}; "
                    "--columns FIELD=COLUMN,... names other columns"
                )
            if bad_row is None or (lacks and number == 0):
                raise InvalidRequest("data", f"{where}: {reason}") from None
            bad_row(where, reason)


class _RowReader:
    """Makes problems of rows; remembers the texts it saw and what it warned of."""

    def __init__(self, columns: Mapping[str, str], needed: AbstractSet[str]) -> None:
        self._columns, self._needed = columns, needed
        self._seen: Counter[str] = Counter()
        self._left_out: set[str] = set()

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """The problem of a row; KeyError, TypeError or ValueError say what is wrong with it."""
        found = {name: self._value(row, name, column) for name, column in self._columns.items()}
        text = found["problem"]
        if text is None:
            raise TypeError(f"{self._columns['problem']} is empty")
        return Problem(
            id=found["id"] or self._new_id(text),
            text=with_form(text, found["answer"]),
            answer=found["answer"],
            solution=found["solution"],
            source=found["source"] or "",
            size=found["size"] or "",
        )

    def _value(self, row: Mapping[str, Any], name: str, column: str) -> str | None:
        if not column:
            return None
        try:
            value = row[column] if name in self._needed else row.get(column)
            return _joined(value) if name == "answer" else as_text(value)
        except (TypeError, ValueError) as error:
            if name in self._needed:
                raise type(error)(f"{column} {error}") from None
            if name not in self._left_out:
                self._left_out.add(name)
                log.warning("the column %s is left out: it %s", column, error)
            return None

    def _new_id(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._seen[digest] += 1
        times = self._seen[digest]
        return digest if times == 1 else f"{digest}-{times}"


def as_text(value: object) -> str | None:
    """A value of JSON or Arrow as text, as its reader would write it; None if it is missing.

    Whole numbers have no point and no number has an exponent. NaN, and the names that pandas gives
    to missing values, are missing.

    Raises:
        TypeError: it is neither text nor a number.
        ValueError: it is infinite, or text that cannot be written.
    """
    if value is None or value != value:  # NaN, NaT
        return None
    if isinstance(value, str):
        text = value
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise TypeError(f"must be text or a number, got {type(value).__name__}")
    elif isinstance(value, int):
        text = str(value)
    else:
        number = Decimal(repr(value)) if isinstance(value, float) else value
        if not number.is_finite():
            raise ValueError("must be finite, got infinity")
        whole = number == number.to_integral_value()
        text = format(number.to_integral_value() if whole else number.normalize(), "f")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds surrogates, which cannot be written") from None
    return None if not text.strip() or text.strip() in _MISSING else text


def _joined(answer: object) -> str | None:
    """An answer; several of one problem, a list of texts, are given together."""
    if isinstance(answer, list) and all(isinstance(one, str) for one in answer):
        answer = ", ".join(answer)
    return as_text(answer)


_MISSING = frozenset(("nan", "NaN", "NaT", "<NA>"))
"""What pandas writes for a missing value that became text."""


def with_form(problem: str, answer: str | None) -> str:
    """The problem; a Knights-and-Knaves puzzle says at its end in which form it is answered."""
    puzzle = answer is not None and parse_roles(answer) is not None
    return f"{problem.rstrip()}\n\n{FORM}" if puzzle and FORM not in problem else problem


def _rows(path: Path) -> Iterator[Located]:
    if path.is_dir():
        files = sorted(one for one in path.rglob("*") if one.suffix in _SUFFIXES)
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
                for row in _plain(batch).to_pylist():
                    number += 1
                    yield f"{path} row {number}", row
    except pyarrow.ArrowException as error:
        raise InvalidRequest("data", f"{path} after row {number}: {error}") from None


def _plain(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """The batch with floats of 32 bits as they are written: 0.1, not 0.10000000149011612."""
    import pyarrow  # noqa: PLC0415

    for index, field in enumerate(batch.schema):
        if pyarrow.types.is_float32(field.type):
            column = batch.column(index).cast(pyarrow.string()).cast(pyarrow.float64())
            batch = batch.set_column(index, field.name, column)
    return batch


def _hub_rows(name: str, split: str, wanted: set[str], needed: set[str]) -> Iterator[Located]:
    import datasets  # noqa: PLC0415

    hub_id, _, chosen = name.partition(":")
    try:
        rows = datasets.load_dataset(hub_id, *filter(None, [chosen]), split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InvalidRequest("data", f"{name!r} is no path, and as a hub id: {error}") from None
    # Solutions may be most of the bytes. Where a column is missing the error names all.
    if needed - {""} <= set(rows.column_names):
        rows = rows.select_columns([one for one in rows.column_names if one in wanted])
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
