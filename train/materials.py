"""What rows are made from: a problem, a target and, to refine, a set of candidates."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gsr_engine.params import Layout
from gsr_engine.seeds import derive_seed
from train.candidate_sets import CandidateSet
from train.dataset import Example
from train.problems import Problem
from train.rows import branched_row, direct_row, linear_row
from train.samples import SamplePool
from train.student import Student


@dataclass(frozen=True, slots=True)
class Target:
    """A text to learn, and who wrote it."""

    text: str
    source: str


TargetOf = Callable[[str, Problem], Target | None]
"""The target of a prompt (its id, and its problem); None where there is none."""


def own_solution(prompt: str, problem: Problem) -> Target | None:
    """The solution that came with the problem, whatever the prompt."""
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
    """What the rows of one prompt are made from.

    Attributes:
        layouts: of its refinement rows; empty for a direct one.
        summaries: ids of the candidates, or their texts where the ids are another tokenizer's.
        num_correct: right candidates, -1 where nobody checked.
    """

    problem: Problem
    target: Target
    layouts: Sequence[Layout] = ()
    summaries: Sequence[list[int] | str] = ()
    num_correct: int = 0

    def examples(self, student: Student) -> Iterator[Example]:
        """Its rows: one, or one in each layout."""
        prompts, name, source = student.prompts, self.problem.id, self.target.source
        problem, target = prompts.problem(self.problem.text), student.target(self.target.text)
        if not self.layouts:
            yield Example(direct_row(prompts, problem, target), name, source=source)
        summaries = [
            student.tokenizer.encode_text(one) if isinstance(one, str) else one
            for one in self.summaries
        ]
        for layout in self.layouts:
            build = linear_row if layout == "linear" else branched_row
            row = build(prompts, problem, summaries, target)
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
) -> Iterator[Material]:
    """One for every set that has a target and whose problem is among `problems`.

    Set i takes the layouts `turns[i % len(turns)]`. `dropped` counts the sets that are left out.
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
        yield Material(
            problem,
            target,
            layouts=turns[number % len(turns)],
            summaries=shown.candidate_ids if known else shown.candidates,
            num_correct=shown.num_correct,
        )
