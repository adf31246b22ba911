"""python -m benchmarks.nano_study: what nano's recipe owes to each of its parts.

    seeds       the recipe with three seeds, the shipped one among them
    ablations   from the same first stage and at the same number of tokens: direct rows only,
                refinement rows only, the problem not restated, the other refine position
    controls    the shipped model given one candidate four times, candidates of another puzzle,
                and weaker candidates (of the first stage's model)

Every part leaves its folder under --out and is not repeated, so the study can be interrupted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import scores
from benchmarks.accuracy import AccuracyConfig, AccuracyRun
from benchmarks.environment import describe_machine
from benchmarks.grading import Grader
from benchmarks.nano import TEST_SEED, K, evaluate
from benchmarks.problems import Problem, puzzle_problems
from benchmarks.samples import Sample, read_samples
from benchmarks.scores import bootstrap
from gsr_engine import Engine, SamplingParams
from train.nano import Recipe, default_recipe, run_recipe

Row = dict[str, str]


def main(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/nano-study"),
    nano: Annotated[Path, typer.Option(help="Run of `make nano`, for seed 0.")] = Path("runs/nano"),
    puzzles: Annotated[int, typer.Option(help="Held-out puzzles.")] = 2000,
) -> None:
    """Run what is missing, then print and write the tables."""
    tables = {"seeds": _seeds(out, nano, puzzles), "ablations": _ablations(out, nano, puzzles)}
    tables["controls"] = _controls(out, nano, puzzles)
    (out / "study.json").write_text(json.dumps({"machine": describe_machine(), **tables}, indent=1))
    with (out / "study.txt").open("w") as file:
        for console in (Console(), Console(file=file, width=150)):
            for title, rows in tables.items():
                _show(console, title, rows)


def _show(console: Console, title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _evaluated(recipe: Recipe, folder: Path, puzzles: int) -> list[Sample]:
    """Train (or find) a model, evaluate it (or find its samples)."""
    samples = folder / "report" / "samples.jsonl"
    if not samples.exists():
        model = run_recipe(recipe, folder)
        evaluate(model, puzzles, folder / "report")
    return read_samples(samples)[1]


def _main_row(name: str, samples: Sequence[Sample]) -> Row:
    hits = {
        "pass@1": scores.pass_at_1(samples, K),
        "greedy": scores.greedy(samples),
        f"maj@{K}": scores.majority_at(samples, K),
        f"best-of-{K}": scores.best_of(samples, K),
        f"pass@{K} (oracle)": scores.oracle(samples, K),
    }
    for layout in ("linear", "branched"):
        for k in (1, K):
            hits[f"{layout}@{k}"] = scores.refined(samples, f"{layout}@{k}")
    repaired = scores.num_correct(samples, K) == 0
    row = {"model": name} | {column: _cell(values) for column, values in hits.items()}
    for layout in ("linear", "branched"):
        row[f"Nc=0 {layout}"] = _cell(hits[f"{layout}@{K}"][repaired])
    return row


def _cell(values: scores.Hits) -> str:
    if not len(values):
        return "–"
    interval = bootstrap(values, resamples=2000)
    return f"{interval.mean:.3f} ±{(interval.high - interval.low) / 2:.3f}"


def _seeds(out: Path, nano: Path, puzzles: int) -> list[Row]:
    folders = {0: nano, 1: out / "seed-1", 2: out / "seed-2"}
    return [
        _main_row(f"seed {seed}", _evaluated(default_recipe(seed), folder, puzzles))
        for seed, folder in folders.items()
    ]


def _ablations(out: Path, nano: Path, puzzles: int) -> list[Row]:
    recipe = default_recipe(0)
    variants: dict[str, Recipe] = {
        "hybrid": recipe,
        "direct only": _with_rows(recipe, lambda direct, refine: (direct + 5 * refine, 0)),
        "refine only": _with_rows(recipe, lambda direct, refine: (0, refine + direct // 5)),
        "not restated": replace(
            recipe, gsr=replace(recipe.gsr, template=replace(recipe.gsr.template, restate=None))
        ),
        "refine position fork": replace(recipe, gsr=replace(recipe.gsr, refine_position="fork")),
    }
    rows = []
    for name, variant in variants.items():
        folder = nano if name == "hybrid" else out / name.replace(" ", "-")
        rows.append(_main_row(name, _evaluated(variant, folder, puzzles)))
    return rows


def _with_rows(recipe: Recipe, change: Callable[[int, int], tuple[int, int]]) -> Recipe:
    """The recipe with other rows per step after its first stage; a refinement row is about five
    direct rows long.
    """
    first, *later = recipe.stages
    changed = []
    for stage in later:
        direct, refine = change(stage.mixture.direct, stage.mixture.refine)
        mixture = replace(stage.mixture, direct=direct, refine=refine)
        changed.append(replace(stage, mixture=mixture))
    return replace(recipe, stages=(first, *changed))


def _controls(out: Path, nano: Path, puzzles: int) -> list[Row]:
    """selfRef@4 of the shipped model over candidates that are not its own four."""
    problems = puzzle_problems("test", TEST_SEED, puzzles)
    own = _drawn(nano / "model", problems)
    weak = _drawn(nano / default_recipe(0).stages[0].name, problems)
    given = {
        "own four": own,
        "one of its own, four times": [candidates[:1] * K for candidates in own],
        "of another puzzle of the same size": _of_another(problems, own),
        "four of the first stage's model": weak,
        "one of the first stage's model": [candidates[:1] for candidates in weak],
    }
    rows = []
    model = nano / "model"
    with Engine.from_pretrained(model, dtype="float32") as engine, Grader(symbolic=False) as grader:
        run = AccuracyRun(engine, problems, grader, AccuracyConfig(headline=K, seed=TEST_SEED))
        for name, candidates in given.items():
            samples = [Sample(p.id, p.text, p.gold, p.size, []) for p in problems]
            row = {"candidates": name}
            for layout in ("linear", "branched"):
                run.refine(samples, f"{layout}@{K}", layout, candidates)
                row[layout] = _cell(scores.refined(samples, f"{layout}@{K}"))
            rows.append(row)
    return rows


def _drawn(model: Path, problems: Sequence[Problem]) -> list[list[list[int]]]:
    """Token ids of four candidates of a model for every problem."""
    with Engine.from_pretrained(model, dtype="float32") as engine:
        prompts = [engine.direct_prompt(problem.text) for problem in problems]
        params = SamplingParams(n=K, temperature=1.0, seed=TEST_SEED)
        results = engine.generate(prompts, params)
    return [[c.content_ids for c in result.completions] for result in results]


def _of_another(
    problems: Sequence[Problem], candidates: list[list[list[int]]]
) -> list[list[list[int]]]:
    """Each problem gets the candidates of the next one of its size."""
    by_size: dict[str, list[int]] = {}
    for index, problem in enumerate(problems):
        by_size.setdefault(problem.size, []).append(index)
    swapped = list(candidates)
    for indices in by_size.values():
        for here, there in zip(indices, indices[1:] + indices[:1], strict=True):
            swapped[here] = candidates[there]
    return swapped


if __name__ == "__main__":
    typer.run(main)
