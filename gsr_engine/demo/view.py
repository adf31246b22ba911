"""How the demo looks: a live view of parallel candidates, examples in full, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gsr_engine.demo.puzzles import BASE, Puzzle, readable
from gsr_engine.demo.report import DemoReport, LayoutReport, run_layout
from gsr_engine.engine import Engine
from gsr_engine.evaluation.evaluator import Refined, vote
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import LAYOUTS, Layout, SamplingParams, SelfRefineParams
from gsr_engine.requests.request import Stream, completion
from gsr_engine.requests.self_refine import SelfRefineRequest


def demo_params(k: int, layout: Layout, seed: int) -> SelfRefineParams:
    """Candidates at temperature 1, the refinement greedy."""
    return SelfRefineParams(k=k, layout=layout, seed=seed, refine=SamplingParams(temperature=0.0))


def _mark(text: str, right: bool | None, title: str) -> Panel:
    """A solution and whether it is right; `right` is None while it is being written."""
    style = "dim" if right is None else "green" if right else "red"
    sign = "…" if right is None else "✓" if right else "✗"
    return Panel(Text(readable(text)), title=f"{title} {sign}", border_style=style, expand=True)


def _snapshot(engine: Engine, request: SelfRefineRequest, puzzle: Puzzle) -> RenderableType:
    """The texts of a request's streams at this moment."""

    def mark(stream: Stream, title: str) -> Panel:
        shown = completion(stream, engine.tokenizer)
        answer = engine.find_answer(shown)
        right = ExactGrader().correct(answer, puzzle.answer) if stream.finished else None
        return _mark(shown.text, right, title)

    panels = [mark(stream, f"candidate {stream.index + 1}") for stream in request.candidates]
    parts: list[RenderableType] = [
        Text(f"Problem: {readable(puzzle.problem)}", style="bold"),
        Columns(panels, equal=True, expand=True),
    ]
    if request.refinement is not None:
        parts.append(mark(request.refinement, "refined"))
    return Group(*parts)


def watch(console: Console, engine: Engine, puzzle: Puzzle, params: SelfRefineParams) -> None:
    """Solve one puzzle while the reader watches; without a terminal nothing is drawn."""
    request = engine.new_self_refine(puzzle.problem, params)
    engine.submit(request)
    with Live(console=console, refresh_per_second=20, transient=True) as live:
        while engine.has_work:
            engine.step()
            if console.is_terminal:
                live.update(_snapshot(engine, request, puzzle), refresh=True)


def run_all(
    console: Console, engine: Engine, puzzles: Sequence[Puzzle], k: int, seed: int
) -> DemoReport:
    """Refine every puzzle in every layout of the checkpoint, with a progress bar."""
    report = DemoReport(k)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=console.quiet
    ) as progress:
        for layout in LAYOUTS:
            if layout in engine.gsr.layouts:
                task = progress.add_task(f"selfRef@{k} {layout}", total=len(puzzles))
                report.layouts[layout] = run_layout(
                    engine,
                    puzzles,
                    demo_params(k, layout, seed),
                    lambda finished, task=task: progress.advance(task, finished),  # type: ignore[misc]
                )
    return report


@dataclass(frozen=True, slots=True)
class Example:
    """A puzzle to show, and how it was solved."""

    puzzle: Puzzle
    refined: Refined

    @property
    def repaired(self) -> bool:
        """All candidates are wrong, and the refined answer is right."""
        return self.refined.correct and not self.refined.num_correct

    @property
    def outvoted(self) -> bool:
        """The majority is wrong, and the refined answer is right."""
        return self.refined.correct and not self.refined.majority_correct

    @property
    def mixed(self) -> bool:
        """Some candidate is wrong."""
        return self.refined.num_correct < len(self.refined.candidates)


def pick_examples(report: LayoutReport, count: int) -> list[Example]:
    """The telling cases first: all candidates wrong, then the majority wrong, then mixed sets."""
    examples = map(Example, report.puzzles, report.run.refined)
    ranked = sorted(examples, key=lambda one: (one.repaired, one.outvoted, one.mixed), reverse=True)
    repaired = [one for one in ranked if one.repaired][: count // 2]
    outvoted = [one for one in ranked if one.outvoted and one not in repaired]
    mixed = [one for one in ranked if one.refined.majority_correct and one.mixed]
    telling = repaired + outvoted[: count - len(repaired) - 1] + mixed
    return (telling + [one for one in ranked if one not in telling])[:count]


def show_example(console: Console, example: Example) -> None:
    """One puzzle in full: the problem, the candidates, the majority's and the refined answer."""
    puzzle, refined = example.puzzle, example.refined
    console.rule(f"[bold]{readable(puzzle.problem)}[/]  = {readable(puzzle.answer)}")
    panels = [
        _mark(attempt.completion.text, attempt.correct, f"candidate {index}")
        for index, attempt in enumerate(refined.candidates, start=1)
    ]
    console.print(Columns(panels, equal=True, expand=True))
    winner = vote(refined.candidates)
    majority = readable(winner.answer) if winner and winner.answer else "nothing"
    console.print(f"majority answers {majority} {'✓' if refined.majority_correct else '✗'}")
    console.print(_mark(refined.result.text, refined.correct, "refined"))


def show_report(console: Console, report: DemoReport) -> None:
    """The tables: accuracy, accuracy by number of right candidates, cost by phase."""
    figures, k = report.as_dict(), report.k
    rules = f"base {BASE}, products keep the number's length"
    title = f"{figures['puzzles']} held-out puzzles ({rules})"
    accuracy = Table(title=title, title_justify="left")
    for column in ("pass@1", f"maj@{k}", f"pass@{k} (oracle)"):
        accuracy.add_column(column, justify="right")
    row = [figures["pass@1"], figures[f"maj@{k}"], figures[f"pass@{k}"]]
    for layout, value in figures[f"selfRef@{k}"].items():
        accuracy.add_column(f"selfRef@{k} {layout}", justify="right", style="bold")
        row.append(value)
    accuracy.add_row(*(f"{value:.3f}" for value in row))
    console.print(accuracy)

    strata = Table(
        title="refined answer right, by number of right candidates", title_justify="left"
    )
    strata.add_column("layout")
    for n in range(k + 1):
        strata.add_column(f"{n} of {k}", justify="right")
    for layout, groups in figures["by_num_correct"].items():
        cells = [groups.get(str(n)) for n in range(k + 1)]
        strata.add_row(
            layout, *(f"{c['accuracy']:.2f} ({c['puzzles']})" if c else "–" for c in cells)
        )
    console.print(strata)

    cost = Table(title="cost", title_justify="left")
    for column in ("layout", "phase", "tokens computed", "tokens reused", "seconds"):
        cost.add_column(column, justify="left" if column in ("layout", "phase") else "right")
    for layout, phases in figures["phases"].items():
        for name, phase in phases.items():
            cost.add_row(
                layout,
                name,
                f"{phase['tokens_computed']:,}",
                f"{phase['tokens_reused']:,}",
                f"{phase['seconds']:.2f}",
            )
        speed = figures["tokens_per_second"][layout]
        cost.add_row(layout, "all", f"{speed:,.0f} generated tokens/s", "", "", end_section=True)
    console.print(cost)
