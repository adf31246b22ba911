"""Samples: solutions that were generated for a prompt, and the shards that hold them on disk."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.files import JsonLine, read_jsonl


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One generated solution, as a store keeps it; other JSONL files may have fewer fields.

    Attributes:
        id: of the prompt.
        index: of the sample among those of its prompt; a line calls it "sample".
        key: hash of what shaped it.
        token_ids: without the end token; None where a server sent text.
        tokenizer: digest of the tokenizer of `token_ids`; "" where that is not known.
        finish_reason: "stop", "length", "repetition" (where a server ends loops), or "error" for a
            sample that failed for good.
        num_tokens: generated tokens.
        logprob: of the whole sample under the model; None where a server sent text.
        answer: its final answer; None where it states none.
        correct: whether the answer is the gold one; None where there is no gold answer.
        source: the model that wrote it.
        error: why it failed.
    """

    id: str
    index: int
    key: str = ""
    text: str = ""
    token_ids: list[int] | None = None
    tokenizer: str = ""
    finish_reason: str = "stop"
    num_tokens: int = 0
    logprob: float | None = None
    answer: str | None = None
    correct: bool | None = None
    source: str = ""
    error: str = ""

    def as_line(self) -> bytes:
        """A line of JSON."""
        values = {_NAMES.get(one, one): getattr(self, one) for one in _FIELDS}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Sample:
        """From a line of a samples file.

        Raises:
            InvalidRequest: `id` or `sample` is missing, or a field is of another kind.
        """
        try:
            ids, answer = record.get("token_ids"), record.get("answer")
            return cls(
                id=str(record["id"]),
                index=int(record["sample"]),
                key=str(record.get("key", "")),
                text=_valid(record.get("text")),
                token_ids=None if ids is None else [int(one) for one in ids],
                tokenizer=str(record.get("tokenizer", "")),
                finish_reason=str(record.get("finish_reason", "stop")),
                num_tokens=int(record.get("num_tokens") or 0),
                logprob=record.get("logprob"),
                answer=None if answer is None else _valid(answer),
                correct=record.get("correct"),
                source=str(record.get("source", "")),
                error=str(record.get("error", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest("samples", f"{error!r} in {str(record)[:200]}") from None


_FIELDS = [one.name for one in fields(Sample)]
_NAMES = {"index": "sample"}
"""Fields that a line names otherwise."""


def sample_files(path: Path) -> list[Path]:
    """The JSONL files of a samples folder, or the one file."""
    return sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a store of `train.generate`, of a folder of JSONL files, or of one.

    A last line without a line end was torn by an interruption, and is left out.

    Raises:
        InvalidRequest: there is no such file, or a line is not a JSON object with an id.
    """
    if (path / "settings.json").is_file():
        yield from read_samples(path)
        return
    files = sample_files(path)
    if not files or not all(file.is_file() for file in files):
        raise InvalidRequest("samples", f"{path} holds no JSONL file")
    for file in files:
        for line in _lines_with(file, ("id",)):
            yield line.row


def _lines_with(file: Path, names: Sequence[str]) -> Iterator[JsonLine]:
    for line in read_jsonl(file, "samples", appended=True):
        if missing := [name for name in names if name not in line.row]:
            raise InvalidRequest("samples", f"{line.where}: lacks {', '.join(missing)}")
        yield line


def _valid(text: object) -> str:
    """The text; "" if it is not text or cannot be written as UTF-8."""
    if not isinstance(text, str):
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return ""
    return text


FINISHED = re.compile(r"(\d+)\.n(\d+)\.jsonl")
_PART = re.compile(r"(\d+)\.part-.*\.jsonl")
Place = tuple[Path, int, int]
"""A line: its file, offset and length in bytes."""
_Located = tuple[Place, dict[str, Any]]


def read_samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The samples of a store, each once; see `Sample` for the fields. No worker may run.

    An unfinished shard gives the samples that it has so far.

    Raises:
        InvalidRequest: the folder is not a store, or one of its lines is broken.
    """
    if not (folder / "settings.json").is_file():
        raise InvalidRequest("samples", f"{folder} is none that train.generate wrote")
    files = sorted(os.listdir(folder))
    finished: dict[str, re.Match[str]] = {}
    for match in filter(None, map(FINISHED.fullmatch, files)):
        most = finished.get(match[1])
        if most is None or int(match[2]) > int(most[2]):
            finished[match[1]] = match
    parts: dict[str, list[Path]] = {}
    for match in filter(None, map(_PART.fullmatch, files)):
        if match[1] not in finished:
            parts.setdefault(match[1], []).append(folder / match[0])
    for shard in sorted({*finished, *parts}):
        lines = (
            sample_lines(folder / finished[shard][0])
            if shard in finished
            else unique_samples(parts[shard])
        )
        for _, record in lines:
            yield record


def unique_samples(files: Sequence[Path]) -> Iterator[_Located]:
    """Each sample once: its first record without an error, otherwise its first record."""
    seen: set[tuple[str, int]] = set()
    failed = []
    for place, record in chain.from_iterable(map(sample_lines, files)):
        if is_failed(record):
            failed.append((place, record))
        elif (record["id"], record["sample"]) not in seen:
            seen.add((record["id"], record["sample"]))
            yield place, record
    for place, record in failed:
        if (record["id"], record["sample"]) not in seen:
            seen.add((record["id"], record["sample"]))
            yield place, record


def sample_lines(file: Path) -> Iterator[_Located]:
    """The records of a file and where they are; a torn last line is left out."""
    for line in _lines_with(file, ("id", "sample", "key", "finish_reason")):
        yield (file, line.offset, line.length), line.row


def is_failed(record: dict[str, Any]) -> bool:
    """Whether a record is of a sample that failed for good."""
    return bool(record["finish_reason"] == "error")
