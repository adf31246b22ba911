"""How the demo looks: a live view of parallel candidates, examples in full, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gsr_engine.answers import find_answer, same_answer
from gsr_engine.demo.puzzles import Puzzle, readable
from gsr_engine.demo.report import DemoReport, Judged, run_layout
from gsr_engine.engine import Engine
from gsr_engine.params import LAYOUTS, Layout, SamplingParams, SelfRefineParams
from gsr_engine.self_refine import SelfRefineRequest


def demo_params(k: int, layout: Layout, seed: int) -> SelfRefineParams:
    """Candidates at temperature 1, the refinement greedy."""
    return SelfRefineParams(k=k, layout=layout, seed=seed, refine=SamplingParams(temperature=0.0))


def _mark(text: str, answer: str | None, puzzle: Puzzle, title: str) -> Panel:
    right = same_answer(answer, puzzle.answer)
    style = "dim" if answer is None else "green" if right else "red"
    sign = "…" if answer is None else "✓" if right else "✗"
    return Panel(Text(readable(text)), title=f"{title} {sign}", border_style=style, expand=True)


def _snapshot(engine: Engine, request: SelfRefineRequest, puzzle: Puzzle) -> RenderableType:
    """What the streams of a request hold right now."""
    panels = []
    for stream in request.candidates:
        text = engine.tokenizer.decode(stream.segment.token_ids)
        answer = find_answer(text, engine.gsr.answer_pattern) if stream.finished else None
        panels.append(_mark(text, answer, puzzle, f"candidate {stream.index + 1}"))
    parts: list[RenderableType] = [
        Text(f"Problem: {readable(puzzle.problem)}", style="bold"),
        Columns(panels, equal=True, expand=True),
    ]
    if request.refinement is not None:
        text = engine.tokenizer.decode(request.refinement.segment.token_ids)
        answer = (
            find_answer(text, engine.gsr.answer_pattern) if request.refinement.finished else None
        )
        parts.append(_mark(text, answer, puzzle, "refined"))
    return Group(*parts)


def watch(console: Console, engine: Engine, puzzle: Puzzle, params: SelfRefineParams) -> None:
    """Solve one puzzle before the reader's eyes; without a terminal nothing is drawn."""
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
    """Every puzzle in every layout that the checkpoint was trained for, with a progress bar."""
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


def pick_examples(judged: Sequence[Judged], count: int) -> list[Judged]:
    """The telling cases first: all candidates wrong, then the majority wrong, then the rest."""

    def telling(one: Judged) -> tuple[bool, bool, bool]:
        return (
            one.refined_correct and not any(one.correct),
            one.refined_correct and not one.majority_correct,
            not all(one.correct),
        )

    ranked = sorted(judged, key=telling, reverse=True)
    repaired = [one for one in ranked if telling(one)[0]][: count // 2]
    outvoted = [one for one in ranked if telling(one)[1] and one not in repaired]
    mixed = [one for one in ranked if one.majority_correct and telling(one)[2]]
    return (repaired + outvoted[: count - len(repaired) - 1] + mixed)[:count]


def show_example(console: Console, one: Judged) -> None:
    """One puzzle in full: the problem, the candidates, the majority's and the refined answer."""
    console.rule(f"[bold]{readable(one.puzzle.problem)}[/]  = {readable(one.puzzle.answer)}")
    panels = [
        _mark(c.text, one.puzzle.answer if right else "", one.puzzle, f"candidate {c.index + 1}")
        for c, right in zip(one.result.candidates, one.correct, strict=True)
    ]
    console.print(Columns(panels, equal=True, expand=True))
    majority = readable(one.majority_answer or "none")
    console.print(f"majority answers {majority} {'✓' if one.majority_correct else '✗'}")
    console.print(_mark(one.result.text, one.result.answer or "", one.puzzle, "refined"))


def show_report(console: Console, report: DemoReport) -> None:
    """The tables: accuracy, accuracy by number of right candidates, cost by phase."""
    figures, k = report.as_dict(), report.k
    accuracy = Table(title=f"{figures['puzzles']} held-out puzzles", title_justify="left")
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
