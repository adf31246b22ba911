"""python -m benchmarks.grading --data FILE...: what the graders say of a file's own golds.

Every gold must be right against itself, also written in other ways, and wrong against the golds of
the next rows and with its last digit changed. Pairs that a grader gets wrong are listed, and those
of which math-verify alone thinks otherwise are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.grading.checks import KINDS, Pair, pairs_of
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.text.knights import parse_roles
from train.command import run_command
from train.grading import SymbolicGrader
from train.options import parse_options
from train.problems import load_problems, parse_columns
from train.progress import tracked


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingCommand:
    """The options.

    Attributes:
        data: JSONL files with problem and answer.
        columns: FIELD=COLUMN,... where names differ, as of train.problems.
        shown: Most pairs to list of each file.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")]
    columns: str = ""
    shown: int = 40


@dataclass(frozen=True, slots=True)
class Verdicts:
    """A pair, and what is said of it: without algebra, by the grader, and by math-verify alone.

    math-verify is not asked of Knights-and-Knaves puzzles: it knows none, and it may take seconds.
    """

    pair: Pair
    exact: bool
    symbolic: bool
    algebra: bool | None


def check(pairs: Sequence[Pair], grader: SymbolicGrader, what: str) -> list[Verdicts]:
    """All verdicts, with a bar on stderr."""
    exact = ExactGrader()
    verdicts = []
    for pair in tracked(pairs, what, shown=True):
        asked = pair.answer is not None and parse_roles(pair.gold) is None
        verdicts.append(
            Verdicts(
                pair,
                exact.correct(pair.answer, pair.gold),
                grader.correct(pair.answer, pair.gold),
                grader.asked(pair.answer or "", pair.gold) if asked else None,
            )
        )
    return verdicts


def counts(verdicts: Sequence[Verdicts], title: str) -> Table:
    """One line for each kind of pair."""
    table = Table(title=title)
    for column in ("pairs", "count", "exact wrong", "grader wrong", "exact ≠ grader"):
        table.add_column(column, justify="left" if column == "pairs" else "right")
    table.add_column("math-verify alone wrong", justify="right")
    for kind in KINDS:
        own = [one for one in verdicts if one.pair.kind == kind]
        wrong: Counter[str] = Counter()
        for one in own:
            wrong["exact"] += one.exact != one.pair.right
            wrong["grader"] += one.symbolic != one.pair.right
            wrong["apart"] += one.exact != one.symbolic
            wrong["algebra"] += one.algebra is not None and one.algebra != one.pair.right
        numbers = [len(own), *(wrong[name] for name in ("exact", "grader", "apart"))]
        algebra = wrong["algebra"] if any(one.algebra is not None for one in own) else "–"
        table.add_row(kind, *map(str, numbers), str(algebra))
    return table


def listed(verdicts: Sequence[Verdicts], shown: int) -> Table:
    """The pairs of which a grader is wrong, or the two differ."""
    table = Table(show_lines=True)
    for column in ("pair", "id", "answer", "gold", "exact", "grader"):
        table.add_column(column)
    bad = [one for one in verdicts if {one.exact, one.symbolic} != {one.pair.right}]
    for one in bad[:shown]:
        pair = one.pair
        texts = (pair.kind, pair.id, str(pair.answer), pair.gold, str(one.exact), str(one.symbolic))
        table.add_row(*map(Text, texts))  # no markup in what a file says
    if len(bad) > shown:
        table.caption = f"and {len(bad) - shown} more"
    return table


def main(command: GradingCommand) -> None:
    """Check the graders on golds: own ones are right, neighbours' and changed ones are wrong."""
    console = Console()
    if not command.data:
        raise InvalidRequest("data", "needs at least one file")
    with SymbolicGrader() as grader:
        for path in command.data:
            problems = load_problems(path, parse_columns(command.columns))
            answered = [(one.id, one.answer) for one in problems if one.answer is not None]
            pairs = list(pairs_of(*zip(*answered, strict=True))) if answered else []
            verdicts = check(pairs, grader, path.name)
            console.print(counts(verdicts, f"{path.name}: {len(answered)} golds"))
            bad = listed(verdicts, command.shown)
            if bad.row_count:
                console.print(bad)


if __name__ == "__main__":
    run_command(
        "grading",
        lambda: main(parse_options("benchmarks.grading", GradingCommand, main.__doc__ or "")),
    )
