"""python -m benchmarks.grading: can the graders be trusted, and where do they disagree.

`--data FILE...` takes the golds of files. Every gold must be right against itself, also written in
other ways, and wrong against the golds of the next rows and with its last digit changed. Pairs that
the grader gets wrong are listed.

`--samples RUN...` takes the answers of runs, and counts the disagreements of the graders on them.
With `--audit N` it writes a page of N answers near the border between right and wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.grading.audit import Graded, border, chosen, graded_answers
from benchmarks.grading.audit_page import audit_page
from benchmarks.grading.checks import KINDS, Pair, pairs_of
from benchmarks.grading.verdicts import APART, GRADERS, Name, Verdicts, differ, verdicts_of
from benchmarks.samples.folder import read_run
from gsr_engine.errors import InvalidRequest
from train.command import run_command
from train.files import whole_file
from train.grading import SymbolicGrader
from train.options import check_least, parse_options
from train.problems import load_problems, parse_columns
from train.progress import tracked


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingCommand:
    """The options.

    Attributes:
        data: JSONL files with problem and answer.
        columns: FIELD=COLUMN,... where names differ, as of train.problems.
        shown: Most pairs to list of each file.
        samples: Folders of runs.
        audit: How many answers of these runs a page shows to a human.
        out: That page.
    """

    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE...")] = ()
    columns: str = ""
    shown: int = 40
    samples: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")] = ()
    audit: int | None = None
    out: Path = Path("runs/audit.html")

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        check_least(self, audit=1)
        if not self.data and not self.samples:
            raise InvalidRequest("data", "needs at least one file, or --samples a run")
        if self.audit is not None and not self.samples:
            raise InvalidRequest("audit", "shows answers of runs: --samples names none")
        for name, used, by in (
            ("columns", self.data, "--data"),
            ("shown", self.data, "--data"),
            ("out", self.audit, "--audit"),
        ):
            if not used and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InvalidRequest(name, f"is for {by}, which is not there")


Said = tuple[Verdicts, bool]
"""What the graders say, and what is true, or what the run says."""


class Checked(NamedTuple):
    """A pair whose verdict is known, and what the graders say."""

    pair: Pair
    verdicts: Verdicts


def check(pairs: Sequence[Pair], grader: SymbolicGrader, what: str) -> list[Checked]:
    """What all graders say of all pairs, with a bar on stderr."""
    return [
        Checked(pair, verdicts_of(pair.answer, pair.gold, grader))
        for pair in tracked(pairs, what, shown=True)
    ]


def counts(checked: Sequence[Checked], title: str) -> Table:
    """Wrong verdicts of each grader, and disagreements of two, by kind of pair."""
    kinds: dict[str, list[Said]] = {kind: [] for kind in KINDS}
    for pair, verdicts in checked:
        kinds[pair.kind].append((verdicts, pair.right))
    return _table(title, "is wrong", kinds)


def run_counts(answers: Sequence[Graded], title: str) -> Table:
    """Verdicts of each grader against the run's own, and disagreements of two."""
    stated = [one for one in answers if one.solution.answer is not None]
    kinds = {
        f"the run says {name}": [(one.verdicts, right) for one in stated if one.right is right]
        for name, right in (("right", True), ("wrong", False))
    }
    return _table(title, "says otherwise", kinds)


def _table(title: str, otherwise: str, kinds: Mapping[str, Sequence[Said]]) -> Table:
    """A column for every kind of answers; – where a grader was asked nothing."""
    table = Table(title=title)
    for name in ("grader", *kinds):
        table.add_column(name, justify="left" if name == "grader" else "right")
    table.add_row("answers", *(str(len(said)) for said in kinds.values()), end_section=True)
    for grader in GRADERS:
        table.add_row(f"{grader} {otherwise}", *(_against(grader, one) for one in kinds.values()))
    table.add_section()
    for names in APART:
        apart = (sum(differ(each, *names) for each, _ in said) for said in kinds.values())
        table.add_row(f"{names[0]} ≠ {names[1]}", *map(str, apart))
    return table


def _against(grader: Name, said: Sequence[Said]) -> str:
    asked = [(each[grader], right) for each, right in said if each[grader] is not None]
    return str(sum(found != right for found, right in asked)) if asked else "–"


def listed(checked: Sequence[Checked], shown: int) -> Table:
    """The pairs of which the grader or the equality that votes is wrong."""
    table = Table(show_lines=True)
    for column in ("pair", "id", "answer", "gold", "votes", "grader"):
        table.add_column(column)
    asked = [(one.pair, one.verdicts["votes"], one.verdicts["grader"]) for one in checked]
    bad = [one for one in asked if {*one[1:]} != {one[0].right}]
    for pair, *said in bad[:shown]:
        texts = (pair.kind, pair.id, str(pair.answer), pair.gold, *map(str, said))
        table.add_row(*map(Text, texts))  # no markup in what a file says
    if len(bad) > shown:
        table.caption = f"and {len(bad) - shown} more"
    return table


def main(command: GradingCommand) -> None:
    """Check the graders on golds, count their disagreements on runs, show the border to a human."""
    console = Console()
    with SymbolicGrader() as grader:
        for path in command.data:
            _check_file(path, command, grader, console)
        if command.samples:
            _check_runs(command, grader, console)


def _check_file(
    path: Path, command: GradingCommand, grader: SymbolicGrader, console: Console
) -> None:
    problems = load_problems(path, parse_columns(command.columns))
    answered = [(one.id, one.answer) for one in problems if one.answer is not None]
    pairs = list(pairs_of(*zip(*answered, strict=True))) if answered else []
    checked = check(pairs, grader, path.name)
    console.print(counts(checked, f"{path.name}: {len(answered)} golds"))
    bad = listed(checked, command.shown)
    if bad.row_count:
        console.print(bad)


def _check_runs(command: GradingCommand, grader: SymbolicGrader, console: Console) -> None:
    every: list[Graded] = []
    for folder in command.samples:
        run = read_run(folder, "samples")
        answers = list(graded_answers(folder.name, run.samples, grader))
        console.print(run_counts(answers, f"{folder}: {len(answers)} answers"))
        every += answers
    if command.audit is None:
        return
    near = border(every)
    items = chosen(near, command.audit)
    page = audit_page(items, {reason: len(each) for reason, each in near.items()})
    with whole_file(command.out) as file:
        file.write(page)
    console.print(f"{command.out}: {len(items)} of {sum(map(len, near.values()))} answers")


if __name__ == "__main__":
    run_command(
        "grading",
        lambda: main(parse_options("benchmarks.grading", GradingCommand, main.__doc__ or "")),
    )
