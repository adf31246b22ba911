"""Samples by the prompt that they answer: what `train.generate` wrote, on disk, found by its id."""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.shards import read_samples

_COLUMNS = "sample, text, token_ids, finish_reason, answer, correct, source"


@dataclass(frozen=True, slots=True)
class Sample:
    """One generated solution.

    Attributes:
        index: of the sample among those of its prompt.
        token_ids: None where a text is all that came back.
        correct: None where there is no gold answer.
        source: who wrote it.
    """

    index: int
    text: str
    token_ids: list[int] | None = None
    finish_reason: str = "stop"
    answer: str | None = None
    correct: bool | None = None
    source: str = ""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Sample:
        """From a line of a samples file.

        Raises:
            InvalidRequest: a field is missing or of another kind.
        """
        try:
            ids, answer = record.get("token_ids"), record.get("answer")
            return cls(
                index=int(record["sample"]),
                text=_valid(record.get("text")),
                token_ids=None if ids is None else [int(one) for one in ids],
                finish_reason=str(record.get("finish_reason", "stop")),
                answer=None if answer is None else _valid(answer),
                correct=record.get("correct"),
                source=str(record.get("source", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest("samples", f"{error!r} in {str(record)[:200]}") from None


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Which samples are kept, besides those that are right and came to their end.

    Attributes:
        truncated: keep those that were cut at their longest.
        wrong: keep those whose answer is wrong.
        unchecked: keep those of problems without a gold answer.
    """

    truncated: bool = False
    wrong: bool = False
    unchecked: bool = False

    def reason(self, sample: Sample) -> str:
        """Why a sample is left out; "" if it is kept."""
        if not sample.text or sample.finish_reason not in ("stop", "length"):
            return "failed"
        if sample.finish_reason == "length" and not self.truncated:
            return "truncated"
        if sample.correct is None:
            return "" if self.unchecked else "unchecked"
        return "" if sample.correct or self.wrong else "wrong"


class SamplePool:
    """The samples that a filter keeps, in a file of SQLite: memory does not grow with them.

    Attributes:
        dropped: how many were left out, by reason.

    Raises:
        InvalidRequest: a record is no sample.
    """

    def __init__(self, file: Path, records: Iterable[dict[str, Any]], keep: SampleFilter) -> None:
        self.dropped: Counter[str] = Counter()
        file.unlink(missing_ok=True)
        self._database = sqlite3.connect(file)
        # The file is made anew by every build, so it need not survive a crash.
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            f"CREATE TABLE samples (prompt TEXT, {_COLUMNS}, UNIQUE (prompt, sample));"
        )
        with self._database:
            self._database.executemany(
                "INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                self._kept(records, keep),
            )

    def _kept(
        self, records: Iterable[dict[str, Any]], keep: SampleFilter
    ) -> Iterator[tuple[Any, ...]]:
        for record in records:
            sample = Sample.from_record(record)
            if reason := keep.reason(sample):
                self.dropped[reason] += 1
                continue
            ids = None if sample.token_ids is None else array("i", sample.token_ids).tobytes()
            yield (
                str(record["id"]),
                sample.index,
                sample.text,
                ids,
                sample.finish_reason,
                sample.answer,
                sample.correct,
                sample.source,
            )

    def of(self, prompt: str) -> list[Sample]:
        """The samples of a prompt, by index."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM samples WHERE prompt = ? ORDER BY sample",  # noqa: S608  # a constant
            (prompt,),
        )
        return [
            Sample(
                index,
                text,
                None if ids is None else array("i", ids).tolist(),
                finish_reason,
                answer,
                None if correct is None else bool(correct),
                source,
            )
            for index, text, ids, finish_reason, answer, correct, source in rows
        ]

    def close(self) -> None:
        """Give the file back."""
        self._database.close()


def sample_files(path: Path) -> list[Path]:
    """The JSONL files of a samples folder, or the one file."""
    return sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a store of `train.generate`, of a folder of JSONL files, or of one.

    A last line without its end was torn by an interruption and is left out.

    Raises:
        InvalidRequest: there is no such file, or a line is no JSON object with an id.
    """
    if (path / "settings.json").is_file():
        yield from read_samples(path)
        return
    files = sample_files(path)
    if not files or not all(file.is_file() for file in files):
        raise InvalidRequest("samples", f"{path} holds no JSONL file")
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    record["id"]
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidRequest("samples", f"{file} line {number}: {error!r}") from None
                yield record


def _valid(text: object) -> str:
    """The text, or "" where it is none that can be written down."""
    if not isinstance(text, str):
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return ""
    return text
