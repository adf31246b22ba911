"""Files that every stage reads and writes: whole files, JSON lines, folders of one owner."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple, TextIO, overload

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError, InvalidRequest


@overload
def whole_file(path: Path) -> AbstractContextManager[TextIO]: ...
@overload
def whole_file(path: Path, mode: Literal["wb"]) -> AbstractContextManager[BinaryIO]: ...
@contextmanager
def whole_file(path: Path, mode: Literal["w", "wb"] = "w") -> Iterator[Any]:
    """Open a file that appears under its name when it is complete, and not before.

    It is written beside its place, to the disk itself, and renamed at the end. Its folder is
    created if necessary. An error inside the block removes what was written, and leaves an older
    file as it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    encoding = None if mode == "wb" else "utf-8"
    try:
        with partial.open(mode, encoding=encoding) as file:
            yield file
            _to_disk(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _to_disk(file: IO[Any]) -> None:
    """After a power cut a renamed file may be full of zeros if only the system's memory had it."""
    file.flush()
    os.fsync(file.fileno())


def replace_folder(new: Path, path: Path) -> None:
    """Rename a finished folder to `path`; an older folder there is removed."""
    aside = path.with_name(f"{path.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


class JsonLine(NamedTuple):
    """A line of a JSONL file.

    Attributes:
        where: file and line number, for messages.
        row: the object.
        offset, length: the line's place in the file, in bytes; the line end counts.
    """

    where: str
    row: dict[str, Any]
    offset: int
    length: int


def read_jsonl(path: Path, field: str = "data", *, appended: bool = False) -> Iterator[JsonLine]:
    """The objects of a JSONL file; blank lines are skipped.

    Args:
        path: the file.
        field: what the error names.
        appended: the file grows line by line. Then a last line without a line end was torn by an
            interruption, and is left out. Otherwise a missing line end means nothing.

    Raises:
        InvalidRequest: a line is not an object; the message names file and line.
    """
    offset = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if appended and not line.endswith(b"\n"):
                return
            if line.strip():
                where = f"{path} line {number}"
                yield JsonLine(where, parse_object(line, field, where), offset, len(line))
            offset += len(line)


def parse_object(line: bytes, field: str, where: str) -> dict[str, Any]:
    """The object of one line.

    Raises:
        InvalidRequest: the line is not an object; the message begins with `where`.
    """
    try:
        text = line.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError("NUL bytes")  # of UTF-16, or zeros after a power cut
        row = json.loads(text)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            field, f"{where}: is no UTF-8 text (another encoding, or packed?): {error}"
        ) from None
    except RecursionError:
        raise InvalidRequest(field, f"{where}: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidRequest(field, f"{where}: {error}") from None
    if not isinstance(row, dict):
        text = line.decode(errors="replace").strip()
        raise InvalidRequest(field, f"{where}: must be an object, got {text:.100}")
    return row


def open_appended(path: Path) -> TextIO:
    """Open a JSONL file to append lines, without the last line if an interruption tore it."""
    if path.exists():
        with path.open("rb+") as file:
            text = file.read()
            file.truncate(text.rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def claim(file: Path, settings: Mapping[str, Any], holds: str, free: Collection[str] = ()) -> None:
    """Let a folder belong to one set of settings, so that its results are never mixed with others.

    `file` keeps the settings, as JSON. Of processes that claim a new folder at once the first wins.

    Args:
        file: in the folder, which is created if necessary.
        settings: by name; values that JSON does not know are written as text.
        holds: what a refused folder holds, for the message, e.g. "other samples".
        free: names of settings that may differ; the file keeps their newest values.

    Raises:
        CheckpointError: the folder belongs to other settings, and the message names the
            differences; or the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    mine = _plain(settings)
    written = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    try:
        with written.open("w", encoding="utf-8") as text:
            text.write(json.dumps(mine, indent=1, ensure_ascii=False) + "\n")
            _to_disk(text)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise CheckpointError(f"{file} cannot be written: {error.strerror}") from None
    try:
        os.link(written, file)  # a rename would take the place of another process's settings
    except OSError:  # the file exists, or this file system has no hard links
        if file.exists():
            _compare(file, mine, holds, free)
        if free or not file.exists():
            written.replace(file)
    finally:
        written.unlink(missing_ok=True)


def check_claim(
    file: Path, settings: Mapping[str, Any], holds: str, free: Collection[str] = ()
) -> None:
    """Raise CheckpointError if `claim` would; nothing is written."""
    if file.exists():
        _compare(file, _plain(settings), holds, free)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _compare(file: Path, mine: dict[str, Any], holds: str, free: Collection[str]) -> None:
    if found := differences(mine, read_json(file), free):
        raise CheckpointError(
            f"{file.parent} holds {holds}, with another {', '.join(found)}; remove it or "
            "choose another folder"
        )


def differences(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], free: Collection[str] = ()
) -> list[str]:
    """The settings of `mine` that `theirs`, read from JSON, has otherwise, as texts.

    `free` are names of settings that may differ.
    """
    return [
        f"{name}={theirs.get(name)!r:.80} not {value!r:.80}"
        for name, value in mine.items()
        if name not in free and theirs.get(name) != value
    ]


def fingerprint(settings: dict[str, Any], files: Iterable[Path]) -> str:
    """SHA-256 of settings and of the files' contents; names and dates of the files do not count."""
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def is_done(card: Path, expected: str) -> bool:
    """Whether a card describes a build with this fingerprint."""
    return card.is_file() and read_json(card).get("fingerprint") == expected


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        InvalidRequest: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest("config", f"{path}: {error}") from None
