"""Which Triton kernels a process compiles, so that a check can say that none came while serving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Inside, the kernels that are compiled, or loaded from Triton's cache, for the first time.

    Each such launch holds every stream up: for seconds, or for milliseconds if the cache has it.
    Without Triton the list stays empty.
    """
    names: list[str] = []
    if find_spec("triton") is None:
        yield names
        return
    from triton import knobs  # noqa: PLC0415 (not installed everywhere)

    before = knobs.runtime.jit_post_compile_hook

    def note(*, repr: str, **rest: Any) -> Any:
        names.append(repr)
        return before(repr=repr, **rest) if before else None

    knobs.runtime.jit_post_compile_hook = note
    try:
        yield names
    finally:
        knobs.runtime.jit_post_compile_hook = before
