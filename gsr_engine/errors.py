"""The exceptions that a user can catch: every one is a `GsrError`."""

from __future__ import annotations


class GsrError(Exception):
    """Base of every error that gsr_engine raises on purpose."""


class InvalidRequest(GsrError, ValueError):
    """A request that cannot be served as it stands; nothing else is affected.

    `field` names the parameter at fault, the message its value and the limit.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self._message = message

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[str, str]]:
        """Both arguments, so that it can be raised in one process and caught in another."""
        return type(self), (self.field, self._message)


class CheckpointError(GsrError):
    """A checkpoint folder that is missing, incomplete or contradicts itself."""


class UnsupportedModel(CheckpointError):
    """A checkpoint of a kind that the engine does not run; the message names what it does."""


class OutOfMemory(GsrError):
    """The device has too little memory for the model and a single KV page."""


class OutOfPages(GsrError):
    """The page pool has fewer free pages than were asked for."""


class PoolCorrupted(GsrError):
    """`PagePool.check` found a reference count that no owner accounts for: a bug, not bad input."""


class EngineClosed(GsrError):
    """The engine was closed; it takes no more requests."""


class QueueFull(GsrError):
    """An `AsyncEngine` has `max_pending` unfinished requests, and the caller would not wait."""
