"""Knights and Knaves: who of the inhabitants always tells the truth, and who always lies.

The published test set has 100 puzzles for each number of inhabitants from 2 to 8.
`gym:knights_knaves` makes any number of new ones. Names of the hub's columns and splits were taken
from public programs that read them; nothing was downloaded.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from benchmarks.tasks.rows import load_rows
from benchmarks.tasks.task import BenchmarkProblem, Source
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import ExactGrader, Grader
from gsr_engine.text.knights import parse_roles
from train.problems import Problem

_HUB = "K-and-K/knights-and-knaves:test"
_SPLIT = "+".join(f"{people}ppl" for people in range(2, 9))
_COLUMNS = {"problem": "quiz", "answer": "solution_text_format", "solution": "", "id": ""}
_NO_ROLES = "the answer does not say who is a knight and who is a knave"


class KnightsAndKnaves:
    """The task; results are grouped by the number of inhabitants."""

    name = "kk"
    version = 1

    def load(self, source: Source) -> list[BenchmarkProblem]:
        """As of `Task`."""
        problems = load_rows(source, _HUB, _SPLIT, _COLUMNS, _people)
        return [one if one.error else _checked(one) for one in problems]

    def grader(self, gsr: GsrConfig) -> AbstractContextManager[Grader]:
        """The equality that votes reads every usual form of who is a knight."""
        return nullcontext(ExactGrader())


def _checked(problem: BenchmarkProblem) -> BenchmarkProblem:
    roles = parse_roles(problem.gold)
    return problem if roles else replace(problem, error=f"{_NO_ROLES}: {problem.gold}")


def _people(problem: Problem) -> str:
    roles = parse_roles(problem.answer or "")
    return f"{len(roles)} people" if roles else ""


KNIGHTS = KnightsAndKnaves()
