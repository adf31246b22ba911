"""The header of a GGUF file: its metadata, and where its tensors lie.

The package `gguf` knows the types and dequantises. Its reader is not used: a count in a broken file
keeps it busy without end, and the vocabulary of a Qwen3 takes it six seconds.

Source of the format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gsr_engine.checkpoint.fields import Fields
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

VERSIONS = (2, 3)
_MAGIC = b"GGUF"
# Ten times what files have, or more; beyond it a file would keep its reader busy for minutes.
_MOST_FIELDS, _MOST_TENSORS = 1 << 16, 1 << 16
_MOST_BYTES = 1 << 28
_MOST_VALUES = 1 << 22
"""Elements of all arrays together; the largest vocabulary has a quarter of a million tokens."""
_MOST_DIMENSIONS = 4
_NUMBERS = {**dict(enumerate("BbHhIif?")), **dict(enumerate("Qqd", start=10))}
"""Codes of `struct` by the numbers of the value types."""
_TEXT, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file.

    Attributes:
        kind: its type, e.g. "Q4_K".
        shape: as torch orders it, rows first.
        start: its first byte in the file.
        size: its bytes.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by name, and tensors by name; the order is that of the file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def fields(self) -> Fields:
        """The metadata, read with checks; errors name the file."""
        return Fields(self.path.name, self.metadata)


def library(path: Path) -> ModuleType:
    """The package `gguf`.

    Raises:
        UnsupportedModel: it is not installed.
    """
    try:
        import gguf  # noqa: PLC0415  # an extra
    except ImportError:
        raise UnsupportedModel(
            f"{path.name} needs the package gguf: pip install 'gsr-engine[gguf]'"
        ) from None
    module: ModuleType = gguf
    return module


def read_header(path: Path) -> GgufHeader:
    """Read the header of a file; of its tensors nothing is read.

    Raises:
        CheckpointError: the file is missing, no GGUF, cut, or contradicts itself.
        UnsupportedModel: its version, byte order or a tensor's type is not known, it is one part of
            several, or the package `gguf` is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise CheckpointError(f"{path} cannot be read: {error!s:.200}") from None


class _Reader:
    """A cursor over the header; every read is checked against the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0
        self._values = 0

    def header(self) -> GgufHeader:
        self._check_beginning()
        num_tensors = self._count("tensors", _MOST_TENSORS)
        num_fields = self._count("metadata fields", _MOST_FIELDS)
        metadata: dict[str, Any] = {}
        for _ in range(num_fields):
            name = self._text()
            if name in metadata:
                raise self._error(f"metadata field {shown(name)} stands there twice")
            metadata[name] = self._value(self._number("I"))
        if metadata.get("split.count", 0) not in (0, 1):
            raise UnsupportedModel(
                f"{self._path.name} is one part of several, which are not read; "
                "join them with llama.cpp's llama-gguf-split --merge"
            )
        return GgufHeader(self._path, metadata, self._tensors(num_tensors, metadata))

    def _check_beginning(self) -> None:
        if self._take(4) != _MAGIC:
            raise self._error("it is no GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            order = ": its bytes are in big-endian order" if version & 0xFFFF == 0 else ""
            known = " and ".join(map(str, VERSIONS))
            raise UnsupportedModel(
                f"{self._path.name}: GGUF version {version} is not supported{order}; "
                f"supported are {known}"
            )

    def _tensors(self, number: int, metadata: dict[str, Any]) -> dict[str, TensorInfo]:
        listed = [self._tensor() for _ in range(number)]
        alignment = Fields(self._path.name, metadata).integer("general.alignment", 1, 1 << 20, 32)
        begin = -(-self._at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, kind, shape, offset in listed:
            size = self._size(name, kind, shape)
            if begin + offset + size > len(self._data):
                raise self._error(f"tensor {shown(name)} reaches beyond its end")
            if name in tensors:
                raise self._error(f"tensor {shown(name)} stands there twice")
            tensors[name] = TensorInfo(name, kind, shape, begin + offset, size)
        return tensors

    def _tensor(self) -> tuple[str, str, tuple[int, ...], int]:
        name = self._text()
        dimensions = self._count(f"dimensions of tensor {shown(name)}", _MOST_DIMENSIONS, "I")
        shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
        number, offset = self._number("I"), self._number("Q")
        try:
            kind: str = library(self._path).GGMLQuantizationType(number).name
        except ValueError:
            raise UnsupportedModel(
                f"{self._path.name}: tensor {shown(name)} has the unknown type {number}"
            ) from None
        return name, kind, shape, offset

    def _size(self, name: str, kind: str, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; each row is of whole blocks."""
        package = library(self._path)
        block, block_bytes = package.GGML_QUANT_SIZES[package.GGMLQuantizationType[kind]]
        if not shape or shape[-1] % block or not all(shape):
            raise self._error(f"tensor {shown(name)} of type {kind} has shape {shown(shape)}")
        return int(math.prod(shape) // block * block_bytes)

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            kind, number = self._number("I"), self._number("Q")
            self._values += number
            if self._values > _MOST_VALUES:
                raise self._error(f"it lists more than {_MOST_VALUES} values")
            if kind == _TEXT:
                return [self._text() for _ in range(number)]
            return self._numbers(kind, number)
        return self._number(self._code(kind))

    def _numbers(self, kind: int, number: int) -> list[Any]:
        code = self._code(kind)
        values = self._take(number * struct.calcsize(code))
        listed: list[Any] = np.frombuffer(values, np.dtype(code).newbyteorder("<")).tolist()
        return listed

    def _text(self) -> str:
        try:
            return self._take(self._number("Q")).decode()
        except UnicodeDecodeError:
            raise self._error(f"a text before byte {self._at} is no UTF-8") from None

    def _count(self, what: str, most: int, code: str = "Q") -> int:
        number: int = self._number(code)
        if number > most:
            raise self._error(f"it has {number} {what}; at most {most} are read")
        return number

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _take(self, size: int) -> bytes:
        stop = self._at + size
        if stop > len(self._data):
            raise self._error("it ends in the middle of its header")
        if stop > _MOST_BYTES:
            raise self._error(f"its header has more than {_MOST_BYTES} bytes")
        taken = self._data[self._at : stop]
        self._at = stop
        return taken

    def _code(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise self._error(f"a metadata field has the unknown type {kind}")
        return _NUMBERS[kind]

    def _error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self._path} cannot be read: {message}")
