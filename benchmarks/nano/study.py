"""python -m benchmarks.nano.study: what nano's recipe owes to each of its parts.

    objectives  direct rows only and refinement rows only, from the same first stage on and at the
                same number of tokens
    controls    the shipped model given one candidate four times, candidates of another puzzle,
                and weaker candidates (of the first stage's model)
    seeds       the recipe with three seeds, the shipped one among them
    layouts     the problem not restated; the other refine position

The models are trained side by side, one per core. A model whose folder exists under --out is not
trained again, so the study can be interrupted, or done table by table.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy.config import AccuracyConfig
from benchmarks.accuracy.methods import selfref
from benchmarks.analysis.intervals import Floats, Resampling
from benchmarks.nano.outcomes import outcomes_of, right_of
from benchmarks.nano.promises import MAX_TOKENS, TEST_SEED, K, evaluate
from benchmarks.samples.folder import RUN, Run, read_run
from benchmarks.tasks.puzzles import puzzle_problems
from benchmarks.tasks.task import BenchmarkProblem
from gsr_engine import Engine, SamplingParams
from gsr_engine.checkpoint.gsr_config import RefinePosition
from gsr_engine.environment import describe_machine
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.evaluator import Evaluator
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.params import LAYOUTS
from train.command import run_command, show_log
from train.nano import Recipe, default_recipe, run_recipe

Row = dict[str, str]
TITLES = ("objectives", "controls", "seeds", "layouts")
SHIPPED = "nano"


def main(
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/nano-study"),
    nano: Annotated[Path, typer.Option(help="Run of `make nano`.")] = Path("runs/nano"),
    puzzles: Annotated[int, typer.Option(help="Held-out puzzles.")] = 1000,
    tables: Annotated[str, typer.Option(help="Some of them.")] = ",".join(TITLES),
) -> None:
    """Run what is missing, then print and write the tables."""
    titles = tables.split(",")
    if not set(titles) <= set(TITLES):
        raise InvalidRequest("tables", f"must be among {', '.join(TITLES)}, got {tables}")
    recipes = {title: recipes_of(title) for title in titles if title != "controls"}
    others = {name: recipe for table in recipes.values() for name, recipe in table.items()}
    samples = _evaluate_all(others, out, nano, puzzles)
    rows = {
        title: _controls(nano, puzzles)
        if title == "controls"
        else [_main_row(name, samples[name]) for name in (SHIPPED, *recipes[title])]
        for title in titles
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.json").write_text(json.dumps({"machine": describe_machine(), **rows}, indent=1))
    with (out / "study.txt").open("w") as file:
        for console in (Console(), Console(file=file, width=160)):
            console.print(f"{puzzles} held-out puzzles; ± half the 95 % bootstrap interval")
            for title in titles:
                _show(console, title, rows[title])


def _show(console: Console, title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _evaluate_all(
    recipes: dict[str, Recipe], out: Path, nano: Path, puzzles: int
) -> dict[str, Run]:
    """Train and evaluate every model, one per core; finished ones are only read."""
    shipped = default_recipe()
    # The shipped recipe comes first, on all cores: some others start from its first stage.
    _evaluate_one(SHIPPED, shipped, nano, puzzles)
    folders = {name: out / name.replace(" ", "-") for name in recipes}
    for name, recipe in recipes.items():
        _reuse_first_stage(recipe, folders[name], shipped, nano)
    with ProcessPoolExecutor(
        max_workers=os.cpu_count(),
        mp_context=mp.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    ) as pool:
        waiting = [
            pool.submit(_evaluate_one, name, recipes[name], folders[name], puzzles)
            for name in recipes
        ]
        for done in waiting:
            done.result()
    folders[SHIPPED] = nano
    return {name: _held_out(folder, puzzles) for name, folder in folders.items()}


def _held_out(folder: Path, puzzles: int) -> Run:
    """The first samples of a report, which must hold the test stream."""
    run = read_run(folder / "report")
    data = run.settings["data"]
    if not data.startswith("test ") or len(run.samples) < puzzles:
        raise InvalidRequest("puzzles", f"{folder} holds {len(run.samples)} of the {data}")
    return Run(run.facts, run.samples[:puzzles])


def _evaluate_one(name: str, recipe: Recipe, folder: Path, puzzles: int) -> None:
    if not (folder / "report" / RUN).exists():
        show_log(f"{name}: ")
        evaluate(run_recipe(recipe, folder), puzzles, folder / "report", k=f"1,{K}")


def _reuse_first_stage(recipe: Recipe, folder: Path, base: Recipe, nano: Path) -> None:
    """Copy the base recipe's first stage, if the recipe has the same one."""
    first = base.stages[0]
    same = (recipe.stages[0], recipe.gsr, recipe.seed) == (first, base.gsr, base.seed)
    if same and not folder.exists():
        for part in ("initial", first.name):
            shutil.copytree(nano / part, folder / part)


def _main_row(name: str, run: Run) -> Row:
    outcomes = outcomes_of(run, [K])
    names = ["pass@1", "greedy", f"maj@{K}", f"best-of-{K} (logprob)", f"pass@{K} (oracle)"]
    names += [f"selfref {layout}@{k}" for layout in LAYOUTS for k in (1, K)]
    row = {"model": name} | {column: _cell(outcomes[column].hits) for column in names}
    all_wrong = right_of(run, K, 0)
    for layout in LAYOUTS:
        row[f"Nc=0 {layout}"] = _cell(outcomes[f"selfref {layout}@{K}"].hits[all_wrong])
    return row


def _cell(values: Floats) -> str:
    if not len(values):
        return "–"
    interval = Resampling(range(len(values)), resamples=2000).mean(values)
    return f"{interval.mean:.3f} ±{(interval.high - interval.low) / 2:.3f}"


def recipes_of(title: str) -> dict[str, Recipe]:
    """The recipes that a table compares with the shipped one."""
    recipe = default_recipe()
    if title == "seeds":
        return {f"seed {seed}": default_recipe(seed) for seed in (1, 2)}
    if title == "objectives":
        return {
            "direct only": _with_rows(recipe, lambda direct, refine: (direct + 4 * refine, 0)),
            "refine only": _with_rows(recipe, lambda direct, refine: (0, refine + direct // 4)),
        }
    not_restated = replace(recipe.gsr, template=replace(recipe.gsr.template, restate=None))
    other: RefinePosition = "fork" if recipe.gsr.refine_position == "after" else "after"
    return {
        "not restated": replace(recipe, gsr=not_restated),
        f"refine position {other}": replace(recipe, gsr=replace(recipe.gsr, refine_position=other)),
    }


def _with_rows(recipe: Recipe, change: Callable[[int, int], tuple[int, int]]) -> Recipe:
    """The recipe with other rows per step after its first stage.

    A refinement row is about as long as four direct rows.
    """
    first, *later = recipe.stages
    changed = []
    for stage in later:
        direct, refine = change(stage.direct, stage.refine)
        changed.append(replace(stage, direct=direct, refine=refine))
    return replace(recipe, stages=(first, *changed))


def _controls(nano: Path, puzzles: int) -> list[Row]:
    """selfRef@4 of the shipped model over its own and over other candidates."""
    problems = puzzle_problems("test", TEST_SEED, puzzles)
    own = _drawn(nano / "model", problems)
    weak = _drawn(nano / default_recipe(0).stages[0].name / "model", problems)
    given = {
        "own four": own,
        "one of its own, four times": [candidates[:1] * K for candidates in own],
        "of another puzzle of the same size": _of_another(problems, own),
        "four of the first stage's model": weak,
        "one of the first stage's model": [candidates[:1] for candidates in weak],
    }
    rows = []
    model = nano / "model"
    with Engine.from_pretrained(model, dtype="float32") as engine:
        config = AccuracyConfig(seed=TEST_SEED, max_tokens=MAX_TOKENS)
        evaluator = Evaluator(engine, problems, ExactGrader())
        for name, candidates in given.items():
            row = {"candidates": name}
            for layout in LAYOUTS:
                params = config.refine_params(selfref(layout, K), TEST_SEED)
                refined = evaluator.refine(params, candidates).refined
                row[layout] = _cell(np.array([one.correct for one in refined], dtype=float))
            rows.append(row)
    return rows


def _drawn(model: Path, problems: Sequence[BenchmarkProblem]) -> list[list[list[int]]]:
    """Token ids of four candidates of a model for every problem."""
    with Engine.from_pretrained(model, dtype="float32") as engine:
        prompts = [engine.direct_prompt(problem.text) for problem in problems]
        params = SamplingParams(n=K, temperature=1.0, seed=TEST_SEED)
        results = engine.generate(prompts, params)
    return [[c.content_ids for c in result.completions] for result in results]


def _of_another(
    problems: Sequence[BenchmarkProblem], candidates: list[list[list[int]]]
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
    run_command("nano study", lambda: typer.run(main))
