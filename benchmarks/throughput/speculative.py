"""`--speculative`: this engine with and without lookup decoding, over texts of natural length.

Nothing fixes the lengths: a stream ends at its end token, at a cap, or in a loop, as in `gsr
solve`. What lookup decoding gains depends on what a model repeats, and random weights only loop.
All runs of a case take turns; see `benchmarks.throughput.rounds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from benchmarks.throughput.lookup_comparison import (
    LOOKUP,
    REFINEMENT,
    WAYS,
    WHOLE,
    WITH,
    Arithmetic,
    EnginePair,
    LookupComparison,
    run_name,
)
from benchmarks.throughput.machine_limits import chip
from benchmarks.throughput.rounds import Rounds
from benchmarks.throughput.speculative_table import show
from benchmarks.throughput.table import WIDTH
from benchmarks.throughput.works import WorkSize
from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from gsr_engine.params import LAYOUTS
from train.problems import iterate_problems

PUZZLES = "puzzles"
_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Problems, and the folder of the model that solves them."""

    name: str
    model: Path
    problems: list[str]


def texts_of(sources: str, model: Path | None, count: int) -> list[Texts]:
    """`count` problems of each source: nano's puzzles, or a file for `model`.

    The problems of a file are spread evenly over it, because files are often sorted.

    Raises:
        typer.BadParameter: a file and no model, a model and no file, or a file with fewer problems.
        InvalidRequest: a file cannot be read, or has no `problem` in a row.
        CheckpointError: the folder holds no checkpoint.
    """
    names = dict.fromkeys(sources.split(","))
    files = [name for name in names if name != PUZZLES]
    if files and model is None:
        raise typer.BadParameter(f"speculative: {files[0]!r} needs a --model that solves it")
    if model is not None and not files:
        raise typer.BadParameter(f"model: {PUZZLES} are nano's; --speculative names no file")
    return [_texts(name, model, count) for name in names]


def _texts(source: str, model: Path | None, count: int) -> Texts:
    if source == PUZZLES or model is None:
        puzzles = sample_puzzles("test", _SEED, count)
        return Texts(name=PUZZLES, model=NANO, problems=[puzzle.problem for puzzle in puzzles])
    found = [problem.text for problem in iterate_problems(Path(source), {"answer": ""})]
    if len(found) < count:
        raise typer.BadParameter(f"problems: {source} holds {len(found)}, not {count}")
    spread = [found[number * len(found) // count] for number in range(count)]
    return Texts(name=Path(source).stem, model=find_checkpoint(model), problems=spread)


def compare_lookup(
    texts: Sequence[Texts],
    sizes: Sequence[WorkSize],
    arithmetics: Sequence[Arithmetic],
    new_rounds: Callable[[], Rounds],
    kv_gib: float,
    out: Path,
    progress: Callable[[str], None],
) -> None:
    """Measure all cases, print their table, and keep it with its JSON in the folder `out`.

    Files are written after each case. Every case is a source, a size, a layout and an arithmetic.

    Raises:
        ValueError: a problem failed, or tokens differ that must not.
    """
    out.mkdir(parents=True, exist_ok=True)
    facts = {"speculative_config": LOOKUP, "chip": chip(), "machine": describe_machine()}
    cases: list[dict[str, Any]] = []
    text = ""
    for case in _cases(texts, sizes, arithmetics, new_rounds, kv_gib, progress):
        cases.append(case)
        run = facts | {"cases": cases}
        (out / "speculative.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
        console = Console(width=WIDTH)
        with console.capture() as printed:
            show(console, run)
        text = printed.get()
        (out / "speculative.txt").write_text(text, encoding="utf-8")
    print(text, end="")


def _cases(
    texts: Sequence[Texts],
    sizes: Sequence[WorkSize],
    arithmetics: Sequence[Arithmetic],
    new_rounds: Callable[[], Rounds],
    kv_gib: float,
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    for model in dict.fromkeys(one.model for one in texts):
        for arithmetic in arithmetics:
            with EnginePair(model, arithmetic, kv_gib) as pair:
                for one in texts:
                    for size in sizes if one.model == model else ():
                        yield from _layouts(pair, one, size, new_rounds, progress)


def _layouts(
    pair: EnginePair,
    texts: Texts,
    size: WorkSize,
    new_rounds: Callable[[], Rounds],
    progress: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
    for layout in LAYOUTS:
        progress(f"{texts.name}, {size}, {layout}, {pair.arithmetic.name}")
        comparison = LookupComparison(pair, texts.problems, size, layout)
        comparison.warm_up()
        rounds = new_rounds()
        rounds.measure(comparison.runs(), progress)
        yield {
            "model": texts.model.name,
            "data": texts.name,
            "problems": len(texts.problems),
            "work": str(size),
            "layout": layout,
            "arithmetic": asdict(pair.arithmetic) | {"name": pair.arithmetic.name},
            **_figures(comparison, rounds),
            "num_graphs": pair.num_graphs,
        }


def _figures(comparison: LookupComparison, rounds: Rounds) -> dict[str, Any]:
    """The best run of each kind counts; of the best refinements, what they took."""

    def best(what: str, way: str) -> float:
        runs = [run.result for run in rounds.runs[run_name(what, way)]]
        return min(r.seconds if what == WHOLE else r.seconds_refine for r in runs)

    outcomes = [rounds.outcome(name) for name in rounds.runs]
    counts = min(comparison.counts[WITH], key=lambda one: one.decode_seconds)
    return {
        "seconds": {way: best(WHOLE, way) for way in WAYS},
        "decode_seconds": {way: best(REFINEMENT, way) for way in WAYS},
        "refinements": asdict(counts),
        "same": comparison.same,
        "spread": max(one.spread for one in outcomes),
        "steady": min(one.steady for one in outcomes),
        "runs": {name: [asdict(run) for run in runs] for name, runs in rounds.runs.items()},
    }
