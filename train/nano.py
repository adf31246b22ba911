"""python -m train.nano: the model in the box, from nothing, in minutes on a CPU.

    read      direct solving, and refining drafts of a solver that slips, from scratch
    own-1, 2  candidates of its own, drawn anew by the engine, and hybrid training on them

Every stage leaves its state under --out and is not repeated: an interrupted run goes on where it
was. The result is a Hugging Face folder, `<out>/model`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from gsr_engine import Engine
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.errors import CheckpointError, GsrError
from gsr_engine.gsr_config import GsrConfig
from gsr_engine.sequence import derive_seed
from train.checkpoint import export_model
from train.data import Mixture, Record, Rows
from train.model import load_model
from train.nano_data import own_records, synthetic_records
from train.nano_init import nano_gsr_config, write_initial_checkpoint
from train.sft import SftConfig, Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: candidates of its own for `own_puzzles` (0: synthetic drafts), then training."""

    name: str
    sft: SftConfig
    mixture: Mixture
    own_puzzles: int = 0
    candidates: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How nano is made; the ablations of the study are recipes with other mixtures.

    Attributes:
        synthetic_puzzles: puzzles of the first stage; later stages draw their direct rows there.
        slip_rate: highest share of the first factor's carries that a synthetic draft gets wrong.
        gsr: the prompts and layouts that it is trained for.
    """

    stages: tuple[Stage, ...]
    synthetic_puzzles: int = 8000
    slip_rate: float = 0.3
    gsr: GsrConfig = field(default_factory=nano_gsr_config)
    seed: int = 0


def default_recipe(seed: int = 0) -> Recipe:
    """The recipe of the shipped model."""
    read = Mixture(direct=7, refine=9, candidate_weights=(0.3, 0.25, 0.2, 0.25))
    own = Mixture(
        direct=6,
        refine=10,
        candidate_weights=(0.12, 0.1, 0.12, 0.46, 0.05, 0.05, 0.05, 0.05),
        # Half and half, branched stays 1 to 2 points behind.
        layouts=("linear", "branched", "branched"),
    )

    def stage(name: str, steps: int, lr: float, end: float, own_puzzles: int = 1500) -> Stage:
        sft = SftConfig(
            steps=steps,
            lr=lr,
            warmup=20 if own_puzzles else 60,
            final_lr=end / lr,
            micro_tokens=1024,  # the activations of one layer stay in a CPU's cache
            seed=derive_seed(seed, *name.encode()),
        )
        mixture = own if own_puzzles else read
        return Stage(name=name, sft=sft, mixture=mixture, own_puzzles=own_puzzles)

    # One long decay of the learning rate over all stages; the candidates are renewed in between.
    return Recipe(
        stages=(
            stage("read", 600, 3e-3, 1.5e-3, own_puzzles=0),
            stage("own-1", 500, 1.5e-3, 8e-4),
            stage("own-2", 600, 8e-4, 4e-5),
        ),
        seed=seed,
    )


def run_recipe(recipe: Recipe, out: Path, say: Callable[[str], None] = print) -> Path:
    """Run the stages that are not done yet; returns the folder of the finished model."""
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    _claim(out / "recipe.json", recipe)
    source = out / "initial"
    if not (source / "gsr.json").exists():
        write_initial_checkpoint(source, recipe.gsr, recipe.seed)
    for index, stage in enumerate(recipe.stages):
        target = out / stage.name
        if not (target / "model.safetensors").exists():
            records = _records(recipe, stage, index, source, say)
            run_stage(stage, records, source, target, say)
        source = target
    model = out / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(source, model, ignore=shutil.ignore_patterns("state.*", "log.jsonl"))
    say(f"nano: {model} after {time.perf_counter() - start:.0f} s")
    return model


def _claim(file: Path, recipe: Recipe) -> None:
    """A folder belongs to one recipe: its finished stages are not those of another."""
    text = json.dumps(asdict(recipe), indent=1, ensure_ascii=False)
    if not file.exists():
        file.write_text(text, encoding="utf-8")
    elif file.read_text(encoding="utf-8") != text:
        raise CheckpointError(
            f"{file} is another recipe (or seed); remove it or choose another folder"
        )


def _records(
    recipe: Recipe, stage: Stage, index: int, source: Path, say: Callable[[str], None]
) -> list[Record]:
    """Synthetic records, or the model's own in front of the puzzles for direct rows."""
    puzzles = sample_puzzles("train", recipe.seed, recipe.synthetic_puzzles)
    with Engine.from_pretrained(source, dtype="float32") as engine:
        drafts = 0 if stage.own_puzzles else len(stage.mixture.candidate_weights)
        synthetic = synthetic_records(
            puzzles, engine.tokenizer, engine.prompts, drafts, recipe.slip_rate, recipe.seed
        )
        if not stage.own_puzzles:
            return synthetic
        start = time.perf_counter()
        seed = 1000 * (index + 1) + recipe.seed
        asked = sample_puzzles("train", seed, stage.own_puzzles)
        own, right = own_records(engine, asked, stage.candidates, seed)
        share = sum(map(sum, right)) / sum(map(len, right))
        say(
            f"{stage.name}: {len(asked)} puzzles x {stage.candidates} candidates, "
            f"pass@1 {share:.3f}, {time.perf_counter() - start:.0f} s"
        )
        return [*own, *synthetic]


def run_stage(
    stage: Stage, records: list[Record], source: Path, target: Path, say: Callable[[str], None]
) -> None:
    """Train one stage and export it."""
    with Engine.from_pretrained(source, dtype="float32") as engine:
        rows = Rows(engine.prompts, records, stage.mixture, stage.sft.seed)
    trainer = Trainer(load_model(source), rows, stage.sft, target, stage.name)
    trainer.run(say)
    export_model(trainer.model, target, source)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/nano"),
    seed: Annotated[int, typer.Option(help="Of weights, puzzles and streams.")] = 0,
) -> None:
    """Make nano from nothing; goes on where an interrupted run was."""
    disable_progress_bar()  # of transformers, which draws one for every file
    run_recipe(default_recipe(seed), out, say=partial(print, flush=True))


if __name__ == "__main__":
    try:
        typer.run(main)
    except (GsrError, OSError) as error:
        raise SystemExit(f"nano: {error}") from None
