"""Reads single fields of a checkpoint's JSON files: each has a type, a range, and a name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gsr_engine.errors import CheckpointError, shown


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object; a field that is null counts as missing.

    Every method raises CheckpointError for a value of another type or out of range, and names the
    file, the field and the limits.

    Attributes:
        where: the file, for messages.
        raw: the object.
    """

    where: str
    raw: dict[str, Any]

    def error(self, name: str, message: str) -> CheckpointError:
        """What to raise for a field."""
        return CheckpointError(f"{self.where}: {name} {message}")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer within limits; without a default the field must be there."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"must be an integer from {low} to {high}, got {shown(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number within limits; without a default the field must be there."""
        value = self._value(name, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
            or not math.isfinite(value)
        ):
            raise self.error(name, f"must be a number from {low:g} to {high:g}, got {shown(value)}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, got {shown(value)}")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A text; without a default the field must be there."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"must be a text, got {shown(value)}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object; an empty one if the field is missing."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise self.error(name, f"must be an object, got {shown(value)}")
        return value

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.raw.get(name) is not None

    def _value(self, name: str, default: object) -> object:
        value: object = self.raw.get(name)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.where} lacks {name!r}")
        return value
