"""Materials of rows: a problem, a target and, to refine, a set of candidates."""

from __future__ import annotations

import random
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.params import Layout
from gsr_engine.seeds import derive_seed
from gsr_engine.text.problem_prompts import ProblemPrompts
from train.dataset import Example, write_part
from train.hybrid.candidate_sets import CandidateSet
from train.hybrid.sample_pool import SamplePool
from train.hybrid.student import Student, load_student
from train.problems import Problem
from train.rows import branched_row, direct_row, linear_row
from train.signals import shielded


@dataclass(frozen=True, slots=True)
class Target:
    """A text to learn, and who wrote it."""

    text: str
    source: str


TargetOf = Callable[[str, Problem], Target | None]
"""The target of a prompt (its id, and its problem); None if it has no target."""


def own_solution(prompt: str, problem: Problem) -> Target | None:
    """The solution that came with the problem, for any prompt."""
    return None if problem.solution is None else Target(problem.solution, problem.source)


def drawn_from(pool: SamplePool, seed: int) -> TargetOf:
    """One sample of each prompt, drawn by the seed and the prompt's id."""

    def draw(prompt: str, problem: Problem) -> Target | None:
        samples = pool.of(prompt)
        if not samples:
            return None
        chosen = random.Random(derive_seed(seed, *prompt.encode())).choice(samples)
        return Target(chosen.text, chosen.source)

    return draw


@dataclass(frozen=True, slots=True)
class Material:
    """The material of the rows of one prompt.

    Attributes:
        layouts: of its refinement rows; empty for a direct one.
        summaries: ids of the candidates; texts if the ids are another tokenizer's.
        num_correct: right candidates; -1 if they were not checked.
    """

    problem: Problem
    target: Target
    layouts: Sequence[Layout] = ()
    summaries: Sequence[list[int] | str] = ()
    num_correct: int = 0

    def examples(self, student: Student) -> Iterator[Example]:
        """Its rows: one, or one in each layout."""
        prompts, name, source = student.prompts, self.problem.id, self.target.source
        problem = ProblemPrompts(prompts, self.problem.text)
        target = student.target(self.target.text)
        if not self.layouts:
            yield Example(direct_row(problem, target), name, source=source)
        summaries = [
            prompts.solution(one) if isinstance(one, str) else one for one in self.summaries
        ]
        for layout in self.layouts:
            build = linear_row if layout == "linear" else branched_row
            row = build(problem, summaries, target)
            yield Example(row, name, layout, len(summaries), self.num_correct, source)


def direct_materials(
    problems: Iterable[Problem], target_of: TargetOf, dropped: Counter[str]
) -> Iterator[Material]:
    """One for every problem that has a target; `dropped` counts the others."""
    for problem in problems:
        target = target_of(problem.id, problem)
        if target is None:
            dropped["direct: no target"] += 1
        else:
            yield Material(problem, target)


def refine_materials(
    sets: Iterable[CandidateSet],
    problems: Mapping[str, Problem],
    target_of: TargetOf,
    tokenizer_hash: str,
    turns: Sequence[Sequence[Layout]],
    dropped: Counter[str],
    encoded: Counter[str],
) -> Iterator[Material]:
    """One for every set that has a target and whose problem is among `problems`.

    Set i takes the layouts `turns[i % len(turns)]`. `dropped` counts the sets that are left out,
    `encoded` those whose candidates are encoded from their text, because their ids are another
    tokenizer's.
    """
    for number, shown in enumerate(sets):
        problem = problems.get(shown.problem_id)
        if problem is None:
            dropped["refine: problem left out"] += 1
            continue
        target = target_of(shown.id, problem)
        if target is None:
            dropped["refine: no target"] += 1
            continue
        known = shown.tokenizer == tokenizer_hash
        if not known:
            encoded["another tokenizer"] += 1
        yield Material(
            problem,
            target,
            layouts=turns[number % len(turns)],
            summaries=shown.candidate_ids if known else shown.candidates,
            num_correct=shown.num_correct,
        )


PART = 256
"""Prompts of a part; an interruption loses at most one part of each process."""


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
        try:
            for file, chunk in missing():
                if len(running) == 2 * processes:  # more would only wait in memory
                    running.popleft().result()
                with shielded(signal.SIGINT):  # it may start a process
                    running.append(pool.submit(_write, file, chunk, student.folder, student.gsr))
            for part in running:
                part.result()
        except BaseException:  # those that run are finished, no other one begins
            pool.shutdown(cancel_futures=True)
            raise
    return parts


def _write(file: Path, chunk: Sequence[Material], folder: Path, gsr: GsrConfig) -> None:
    write_part(file, _examples(chunk, load_student(folder, gsr)))


def _examples(chunk: Iterable[Material], student: Student) -> Iterator[Example]:
    return chain.from_iterable(one.examples(student) for one in chunk)


def _chunks(items: Iterable[Material], size: int) -> Iterator[list[Material]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, size)), [])
