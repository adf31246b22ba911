"""The models of the studies: nano, and recipes with one thing changed.

nano      the shipped recipe: direct solving and refining, in one model
direct    direct rows alone, as many tokens; it never sees a draft
refine    refinement rows alone after the first stage, as many tokens
near      refinement rows of one family alone, two plain factors; direct rows of all puzzles
wide      one and a half times as wide, trained on the candidates that nano drew for itself
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gsr_engine.demo.puzzles import Mix
from train.command import show_log
from train.nano import Recipe, Stage, default_recipe, run_recipe

TRAINED_FAMILY = Mix(factors=(2,), share_of_sums=0.0)
"""The only puzzles whose refinement `near` learns."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A model to train.

    Attributes:
        recipe: how.
        data_of: the variant whose data it learns from, its candidates among them; None makes own.
        begins_as: the variant that has the same first stage, which is not trained again.
    """

    recipe: Recipe
    data_of: str | None = None
    begins_as: str | None = None


def variants() -> dict[str, Variant]:
    """All models by name."""
    nano = default_recipe()
    bare = replace(nano.gsr.template, restate=None)
    return {
        "nano": Variant(nano),
        "direct": Variant(_with_stages(nano, _direct_alone)),
        "refine": Variant(
            replace(nano, stages=(nano.stages[0], *map(_refinement_alone, nano.stages[1:]))),
            begins_as="nano",
        ),
        "near": Variant(replace(_with_stages(nano, _more_sets), refined=TRAINED_FAMILY)),
        "wide": Variant(replace(nano, width=192), data_of="nano"),
        "seed-1": Variant(default_recipe(1)),
        "seed-2": Variant(default_recipe(2)),
        "bare": Variant(replace(nano, gsr=replace(nano.gsr, template=bare))),
        "fork": Variant(replace(nano, gsr=replace(nano.gsr, refine_position="fork"))),
    }


def train_variant(name: str, out: Path) -> Path:
    """The folder of a finished run under `out`; what is missing is trained.

    Raises:
        CheckpointError: the folder belongs to another recipe.
    """
    variant, folder = variants()[name], out / name
    if (folder / "model").exists():
        return folder
    for needed in filter(None, (variant.data_of, variant.begins_as)):
        train_variant(needed, out)
    show_log(f"{name}: ")
    if variant.begins_as and not folder.exists():
        for part in ("initial", variant.recipe.stages[0].name):
            shutil.copytree(out / variant.begins_as / part, folder / part)
    run_recipe(variant.recipe, folder, out / variant.data_of if variant.data_of else None)
    return folder


def _with_stages(recipe: Recipe, change: Callable[[Stage], Stage]) -> Recipe:
    return replace(recipe, stages=tuple(map(change, recipe.stages)))


def _direct_alone(stage: Stage) -> Stage:
    """As many tokens a step: a refinement row is about as long as four direct rows."""
    return replace(stage, direct=stage.direct + 4 * stage.refine, refine=0)


def _refinement_alone(stage: Stage) -> Stage:
    return replace(stage, direct=0, refine=stage.refine + stage.direct // 4)


def _more_sets(stage: Stage) -> Stage:
    """A third of the puzzles are of the family: three sets of each make as many rows."""
    return stage if stage.own_puzzles else replace(stage, sets=3)
