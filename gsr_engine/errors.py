"""The exceptions that a user can catch (each is a `GsrError`), and checks that raise them."""

from __future__ import annotations

from numbers import Real
from operator import index
from reprlib import Repr
from typing import Any

_MOST_SHOWN = 80
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = _MOST_SHOWN
_SHORT.maxlevel = 3


class GsrError(Exception):
    """Base of every error that gsr_engine raises on purpose."""


class InvalidRequest(GsrError, ValueError):
    """A request that cannot be served; other requests are not affected.

    `field` names the parameter at fault; the message states its value and the limit.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self._message = message

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[Any, ...]]:
        """Both arguments, so that the error can pass from one process to another."""
        return type(self), (self.field, self._message)


class PoolTooSmall(InvalidRequest):
    """A request that could not finish alone in an empty pool of KV pages.

    `kv_cache_gib` is the memory for KV pages with which it could.
    """

    def __init__(self, field: str, message: str, kv_cache_gib: float) -> None:
        super().__init__(field, message)
        self.kv_cache_gib = kv_cache_gib

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[Any, ...]]:
        """As that of its base."""
        return type(self), (self.field, self._message, self.kv_cache_gib)


class CheckpointError(GsrError):
    """A checkpoint folder that is missing, incomplete or contradicts itself."""


class UnsupportedModel(CheckpointError):
    """A checkpoint of a kind that the engine does not run; the message names the feature."""


class OutOfMemory(GsrError):
    """The device has too little memory for the weights, or for KV pages beside them."""


class OutOfPages(GsrError):
    """The page pool has fewer free pages than were asked for."""


class PoolCorrupted(GsrError):
    """Page counts do not match their holders: a bug in the engine, not bad input."""


class EngineClosed(GsrError):
    """The engine was closed and takes no more requests."""


class EngineBusy(GsrError):
    """Another thread is using the engine; nothing was changed, and what it runs goes on."""


class EngineForked(GsrError):
    """A forked process may not compute here: see `Engine` for what it may do; nothing was changed.

    Threads do not survive a fork: neither those of OpenMP, which multiply matrices, nor that of an
    `AsyncEngine`. Without this error the child would wait for them forever.
    """


class QueueFull(GsrError):
    """An `AsyncEngine` has `max_pending` unfinished requests, and the caller chose not to wait."""


def shown(value: object) -> str:
    """`repr` of a value for a message, at most 80 characters, whatever the value is."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # e.g. Python refuses to spell an integer of thousands of digits
        text = f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def check_int(name: str, value: object, low: int, high: int) -> int:
    """The integer that a field holds, of whatever type (numpy's, too); True and False are none.

    Raises:
        InvalidRequest: it is no integer, or outside of the limits.
    """
    number = as_int(value)
    if number is None or not low <= number <= high:
        raise InvalidRequest(name, f"must be an integer from {low} to {high}, got {shown(value)}")
    return number


def as_int(value: object) -> int | None:
    """An integer of any type as an int; None for anything else, also for True and False."""
    if isinstance(value, bool):
        return None
    try:  # asking for SupportsIndex first would take far longer, and a prompt has many ids
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_float(name: str, value: object, low: float, high: float) -> float:
    """The number that a field holds, of whatever type.

    Raises:
        InvalidRequest: it is no number, or outside of the limits.
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]  # nan fails too
        raise InvalidRequest(name, f"must be a number from {low:g} to {high:g}, got {shown(value)}")
    return float(value)  # type: ignore[arg-type]


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InvalidRequest unless a field is one of the choices."""
    if value not in choices:
        raise InvalidRequest(name, f"must be one of {', '.join(choices)}, got {shown(value)}")


def check_bool(name: str, value: object) -> None:
    """Raise InvalidRequest unless a field is True or False."""
    if not isinstance(value, bool):
        raise InvalidRequest(name, f"must be True or False, got {shown(value)}")
