"""python -m train.nano: the shipped model, trained from nothing in minutes on a CPU.

    read      direct solving, and refining drafts of a solver that slips, from scratch
    own-1, 2  hybrid training on the model's own candidates, which the engine draws for each stage

A stage takes the same steps as any training: `train.generate` (if it learns from its own
candidates), `train.build`, `train.sft`. Every stage leaves its state under --out and is not
repeated, so the same command resumes an interrupted run. The result is a Hugging Face folder,
`<out>/model`.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from gsr_engine import Engine
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.puzzles import Mix, sample_puzzles
from gsr_engine.params import Layout
from gsr_engine.seeds import derive_seed
from train.command import log, run_command
from train.files import claim
from train.hybrid.candidate_sets import CandidateSet, SetConfig, draw_sets
from train.hybrid.hybrid_set import build_hybrid
from train.hybrid.inputs import HybridConfig, Ingredients
from train.hybrid.student import Student
from train.problems import Problem
from train.samples import Sample
from train.sft import train
from train.toy.nano_checkpoint import NANO_WIDTH, nano_gsr_config, write_initial_checkpoint
from train.toy.puzzles import draw_own, puzzle_problems, slipped_samples
from train.trainer.config import SftConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: candidates, then training.

    Attributes:
        steps: optimizer steps.
        direct, refine: rows of a step.
        weights: of refinements with 1, 2, ... candidates.
        layouts: of refinement rows, in turn.
        lr, final_lr: learning rate at the beginning and at the end.
        warmup: steps until `lr` is reached.
        own_puzzles: new puzzles, which the model draws candidates for; 0 takes synthetic drafts.
        candidates: drawn for each of these puzzles.
        sets: sets of candidates for each puzzle.
    """

    name: str
    steps: int
    direct: int
    refine: int
    weights: tuple[float, ...]
    layouts: tuple[Layout, ...]
    lr: float
    final_lr: float
    warmup: int
    own_puzzles: int = 0
    candidates: int = 8
    sets: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How nano is made; the studies train variants of it.

    Attributes:
        synthetic_puzzles: puzzles of the first stage; later stages take direct rows from them, too.
        slip_rate: highest share of the first factor's carries that a synthetic draft gets wrong.
        refined: the puzzles that refinement rows are of; None takes all. Direct rows are of all.
        width: of the model.
        gsr: the prompts and layouts of the model.
        seed: of weights, puzzles and draws.
    """

    stages: tuple[Stage, ...]
    synthetic_puzzles: int = 8000
    slip_rate: float = 0.3
    refined: Mix | None = None
    width: int = NANO_WIDTH
    gsr: GsrConfig = field(default_factory=nano_gsr_config)
    seed: int = 0


def default_recipe(seed: int = 0) -> Recipe:
    """The recipe of the shipped model."""
    # One long decay of the learning rate over all stages, with new candidates in between.
    read = Stage(
        name="read",
        steps=600,
        direct=7,
        refine=9,
        weights=(0.3, 0.25, 0.2, 0.25),
        layouts=("linear", "branched"),
        lr=3e-3,
        final_lr=1.5e-3,
        warmup=60,
    )

    def own(name: str, steps: int, lr: float, final_lr: float) -> Stage:
        return Stage(
            name=name,
            steps=steps,
            direct=5,
            refine=12,
            weights=(0.12, 0.1, 0.12, 0.46, 0.05, 0.05, 0.05, 0.05),
            # With as many linear as branched rows, branched stays 1 to 2 points behind.
            layouts=("linear", "branched", "branched"),
            lr=lr,
            final_lr=final_lr,
            warmup=20,
            own_puzzles=1500,
            sets=6,
        )

    return Recipe(
        stages=(read, own("own-1", 500, 1.5e-3, 8e-4), own("own-2", 800, 8e-4, 4e-5)), seed=seed
    )


def run_recipe(recipe: Recipe, out: Path, data_of: Path | None = None) -> Path:
    """Run the stages that are not done yet; returns the folder of the finished model.

    Args:
        recipe: what is trained.
        out: folder of the run.
        data_of: folder of a run with the same stages, whose data are learnt from; nothing is drawn.

    Raises:
        CheckpointError: the folder belongs to another recipe.
        Interrupted: a signal stopped a stage, which saved its state.
    """
    start = time.perf_counter()
    claim(out / "recipe.json", asdict(recipe), "another recipe")
    source = out / "initial"
    if not (source / "gsr.json").exists():
        write_initial_checkpoint(source, recipe.gsr, recipe.seed, recipe.width)
    for index, stage in enumerate(recipe.stages):
        folder = out / stage.name
        if not (folder / "model").exists():
            data = (data_of or out) / stage.name / "data"
            if not data_of and not data.exists():
                _build(recipe, stage, index, source, data)
            train(_settings(recipe, stage, source, data, folder))
        source = folder / "model"
    model = out / "model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(source, model)
    shutil.copy(out / recipe.stages[-1].name / "report.md", out / "report.md")
    shutil.copy(out / recipe.stages[-1].name / "report.png", out / "report.png")
    log.info("nano: %s after %.0f s", model, time.perf_counter() - start)
    return model


def _settings(recipe: Recipe, stage: Stage, source: Path, data: Path, out: Path) -> SftConfig:
    return SftConfig(
        model=str(source),
        data=data,
        out=out,
        steps=stage.steps,
        batch=stage.direct + stage.refine,
        pack=1024,  # the activations of one layer stay in a CPU's cache
        lr=stage.lr,
        final_lr=stage.final_lr / stage.lr,
        warmup=stage.warmup,
        dtype="float32",
        log_every=50,
        seed=derive_seed(recipe.seed, *stage.name.encode()),
    )


def _build(recipe: Recipe, stage: Stage, index: int, source: Path, data: Path) -> None:
    """Build the hybrid set of a stage: direct rows of all puzzles, sets of candidates of some."""
    synthetic = sample_puzzles("train", recipe.seed, recipe.synthetic_puzzles)
    problems = puzzle_problems(synthetic, "synthetic")
    drafts = slipped_samples(synthetic, problems, recipe.slip_rate, recipe.seed)
    kind = recipe.refined or Mix()
    refined = [one for puzzle, one in zip(synthetic, problems, strict=True) if kind.holds(puzzle)]
    seed = 1000 * (index + 1) + recipe.seed
    if stage.own_puzzles:
        own = sample_puzzles("train", seed, stage.own_puzzles, recipe.refined)
        refined = puzzle_problems(own, stage.name)
        problems = [*refined, *problems]
    student = Student(source)
    dropped: Counter[str] = Counter()
    sets: list[CandidateSet] = []
    if stage.refine:
        if stage.own_puzzles:
            folder = data.parent / "candidates"
            drafts = _own_candidates(stage, source, refined, folder, seed, student.tokenizer_hash)
        drawing = SetConfig(weights=stage.weights, sets=stage.sets, easy=None, seed=seed)
        sets = list(draw_sets(refined, drafts, student, drawing, dropped))
    rows = HybridConfig(
        layouts=stage.layouts,
        in_turn=True,
        mix=stage.direct / (stage.direct + stage.refine),
        max_tokens=1024,
        held_out=0.02,
        seed=seed,
    )
    ingredients = Ingredients(problems=problems, sets=sets, dropped=dropped)
    build_hybrid(ingredients, student, rows, data)


def _own_candidates(
    stage: Stage,
    source: Path,
    problems: Sequence[Problem],
    folder: Path,
    seed: int,
    tokenizer: str,
) -> Callable[[str], list[Sample]]:
    with Engine.from_pretrained(source, dtype="float32") as engine:
        return draw_own(engine, problems, stage.candidates, folder, stage.name, seed, tokenizer)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/nano"),
    seed: Annotated[int, typer.Option(help="Of weights, puzzles and streams.")] = 0,
) -> None:
    """Make nano from nothing, or resume an interrupted run."""
    disable_progress_bar()  # transformers draws one for every file
    run_recipe(default_recipe(seed), out)


if __name__ == "__main__":
    run_command("nano", lambda: typer.run(main))
