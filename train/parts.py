"""Rows in parts: tokenised by several processes, each part written whole or not at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

from gsr_engine.checkpoint.gsr_config import GsrConfig
from train.dataset import Example, write_part
from train.materials import Material
from train.student import Student, load_student

PART = 256
"""Prompts of a part: what an interruption loses for each process."""


def write_parts(
    materials: Iterable[Material], student: Student, folder: Path, processes: int
) -> list[Path]:
    """Write the parts that `folder` does not hold yet; returns all of them, in order."""
    parts: list[Path] = []

    def missing() -> Iterator[tuple[Path, list[Material]]]:
        for chunk in _chunks(materials, PART):
            parts.append(folder / f"{len(parts):06}.arrow")
            if not parts[-1].exists():
                yield parts[-1], chunk

    if processes == 1:
        for file, chunk in missing():
            write_part(file, _examples(chunk, student))
        return parts
    running: deque[Future[None]] = deque()
    # Not forked: the threads of torch and of the tokenizer do not survive it.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for file, chunk in missing():
            if len(running) == 2 * processes:  # more would only wait in memory
                running.popleft().result()
            running.append(pool.submit(_write, file, chunk, student.folder, student.gsr))
        for part in running:
            part.result()
    return parts


def _write(file: Path, chunk: Sequence[Material], folder: Path, gsr: GsrConfig) -> None:
    write_part(file, _examples(chunk, load_student(folder, gsr)))


def _examples(chunk: Iterable[Material], student: Student) -> Iterator[Example]:
    return chain.from_iterable(one.examples(student) for one in chunk)


def _chunks(items: Iterable[Material], size: int) -> Iterator[list[Material]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
