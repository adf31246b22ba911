"""Samples of a build, by prompt, in a database on disk."""

from __future__ import annotations

import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsr_engine.outputs import CUT
from train.samples import Sample

_COLUMNS = "sample, text, token_ids, tokenizer, finish_reason, answer, correct, source"


@dataclass(frozen=True, slots=True)
class SampleFilter:
    """Which samples are kept besides complete ones with a right answer.

    Attributes:
        truncated: keep samples that reached the longest length or ran in a loop.
        wrong: keep samples with a wrong answer.
        unchecked: keep samples of problems without a gold answer.
    """

    truncated: bool = False
    wrong: bool = False
    unchecked: bool = False

    def reason(self, sample: Sample) -> str:
        """Why a sample is left out; "" if it is kept."""
        if not sample.text or sample.finish_reason not in ("stop", *CUT):
            return "failed"
        if sample.finish_reason in CUT and not self.truncated:
            return "truncated"
        if sample.correct is None:
            return "" if self.unchecked else "unchecked"
        return "" if sample.correct or self.wrong else "wrong"


class SamplePool:
    """The samples that a filter keeps, in a file of SQLite: memory does not grow with them.

    Attributes:
        dropped: samples that were left out, by reason.

    Raises:
        InvalidRequest: a record is not a sample.
    """

    def __init__(self, file: Path, records: Iterable[dict[str, Any]], keep: SampleFilter) -> None:
        self.dropped: Counter[str] = Counter()
        file.unlink(missing_ok=True)
        self._file = file
        self._database = sqlite3.connect(file)
        # Every build writes the file again, so it need not survive a crash.
        self._database.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            f"CREATE TABLE samples (prompt TEXT, {_COLUMNS}, UNIQUE (prompt, sample));"
        )
        with self._database:
            self._database.executemany(
                "INSERT OR IGNORE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
                sample.id,
                sample.index,
                sample.text,
                ids,
                sample.tokenizer,
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
                id=prompt,
                index=index,
                text=text,
                token_ids=None if ids is None else array("i", ids).tolist(),
                tokenizer=tokenizer,
                finish_reason=finish_reason,
                answer=answer,
                correct=None if correct is None else bool(correct),
                source=source,
            )
            for index, text, ids, tokenizer, finish_reason, answer, correct, source in rows
        ]

    def count(self, prompts: Iterable[str]) -> int:
        """How many samples these prompts have."""
        query = "SELECT COUNT(*) FROM samples WHERE prompt = ?"
        return sum(self._database.execute(query, (one,)).fetchone()[0] for one in prompts)

    def __len__(self) -> int:
        (count,) = self._database.execute("SELECT COUNT(*) FROM samples").fetchone()
        return int(count)

    def close(self) -> None:
        """Close the file, and remove it."""
        self._database.close()
        self._file.unlink(missing_ok=True)
