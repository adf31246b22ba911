"""python -m benchmarks.kernels.roofline: what a GPU could do of selfRef@k, without one.

    python -m benchmarks.kernels.roofline --shape 7b --chip h200
    python -m benchmarks.kernels.roofline --shape 0.5b,7b,32b --chip h100,h200 \
        --out benchmarks/results/roofline

Bytes, FLOPs, launches and programs are counted from what the engine itself would launch
(`simulation`, `counting`). Seconds follow from them by the assumptions of `chips` (`times`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from benchmarks.kernels.roofline.chips import ASSUMPTIONS, CHIPS, GRAPHS_GIB, STEP_GIB, Chip
from benchmarks.kernels.roofline.simulation import EVERY, Sizes, simulate
from benchmarks.kernels.roofline.table import assumptions, document, tables
from benchmarks.kernels.roofline.times import Phase, by_phase
from benchmarks.random_weights import SHAPES, model_config
from gsr_engine import EngineConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.model.weights import weight_bytes
from gsr_engine.params import LAYOUTS
from train.command import run_command

Name = TypeVar("Name", bound=str)


def main(
    shape: Annotated[str, typer.Option(help=f"{', '.join(SHAPES)}; several with commas.")] = "7b",
    chip: Annotated[str, typer.Option(help=f"{', '.join(CHIPS)}; several with commas.")] = "h200",
    layout: Annotated[str, typer.Option(help="Of the refinements.")] = ",".join(LAYOUTS),
    k: Annotated[int, typer.Option(min=1, help="Candidates of a problem.")] = 8,
    problem: Annotated[int, typer.Option(min=1, help="Tokens of a problem.")] = 512,
    candidate: Annotated[int, typer.Option(min=2, help="Tokens of a candidate.")] = 1024,
    refine: Annotated[int, typer.Option(min=2, help="Tokens of a refinement.")] = 1024,
    problems: Annotated[int, typer.Option(min=1, help="Solved at once.")] = 32,
    out: Annotated[
        Path | None, typer.Option(help="A folder for report.md and roofline.json.")
    ] = None,
) -> None:
    """Count what selfRef@k launches, and estimate its seconds."""
    sizes = Sizes(problems=problems, k=k, problem=problem, candidate=candidate, refine=refine)
    results: list[tuple[str, dict[str, Phase]]] = []
    print(assumptions())
    for name in _chosen(shape, SHAPES, "shape"):
        for place in _chosen(chip, CHIPS, "chip"):
            for way in _chosen(layout, LAYOUTS, "layout"):
                title = (
                    f"{name}, {CHIPS[place].name}, {way}: selfRef@{k}, {problems} problems of "
                    f"{problem} tokens, candidates of {candidate}, refinements of {refine}"
                )
                kv_gib = pages_gib(model_config(name), CHIPS[place])
                steps = simulate(model_config(name), sizes, way, kv_gib)
                results.append((title, by_phase(steps, CHIPS[place])))
                print(f"\n## {title}\n\n{tables(results[-1][1])}", flush=True)
    if out is not None:
        _keep(results, out)


def _chosen(names: str, known: Iterable[Name], option: str) -> list[Name]:
    """Those of the known names that are given, separated by commas, in the order given.

    Raises:
        typer.BadParameter: one of the given names is not known.
    """
    given = names.split(",")
    if unknown := sorted(set(given) - set(known)):
        raise typer.BadParameter(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return sorted((name for name in known if name in given), key=given.index)


def pages_gib(config: ModelConfig, chip: Chip) -> float:
    """Memory for KV pages, in GiB, that a chip has beside weights and steps.

    Raises:
        typer.BadParameter: it has none.
    """
    share = EngineConfig().gpu_memory_utilization * chip.memory_gib
    weights = weight_bytes(config, torch.bfloat16) / 2**30
    room = share - weights - STEP_GIB.value - GRAPHS_GIB.value
    if room <= 0:
        raise typer.BadParameter(
            f"chip: weights of {weights:.1f} GiB leave no room for pages on {chip.name}"
        )
    return room


def _keep(results: list[tuple[str, dict[str, Phase]]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(document(results, EVERY), encoding="utf-8")
    facts = {
        "chips": {name: asdict(chip) for name, chip in CHIPS.items()},
        "assumptions": [asdict(one) for one in ASSUMPTIONS],
        "results": {
            title: {name: asdict(phase) for name, phase in phases.items()}
            for title, phases in results
        },
    }
    (out / "roofline.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    run_command("roofline", lambda: typer.run(main))
