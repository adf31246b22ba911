"""The models of the studies: nano, and recipes with one thing changed.

nano      the shipped recipe: direct solving and refining, in one model
direct    direct rows alone, as many tokens; it never sees a draft
refine    refinement rows alone after the first stage, as many tokens
near      refinement rows of one family alone, two plain factors; direct rows of all puzzles
wide      one and a half times as wide, trained on the candidates that nano drew for itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gsr_engine.demo.puzzles import Mix
from train.nano import Recipe, Stage, default_recipe, run_recipe

TRAINED_FAMILY = Mix(factors=(2,), share_of_sums=0.0)
"""The only puzzles whose refinement `near` learns."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A model to train.

    Attributes:
        recipe: how.
        data_of: the variant whose data it learns from, its candidates among them; None makes own.
    """

    recipe: Recipe
    data_of: str | None = None


def variants(seed: int = 0) -> dict[str, Variant]:
    """All models by name; `nano` comes first, because others need its data or its first stage."""
    nano = default_recipe(seed)
    return {
        "nano": Variant(nano),
        "direct": Variant(_with_stages(nano, _direct_alone)),
        "refine": Variant(
            replace(nano, stages=(nano.stages[0], *map(_refinement_alone, nano.stages[1:])))
        ),
        "near": Variant(replace(_with_stages(nano, _more_sets), refined=TRAINED_FAMILY)),
        "wide": Variant(replace(nano, width=192), data_of="nano"),
    }


def train_variant(name: str, out: Path) -> Path:
    """The folder of a finished run under `out`; what is missing is trained.

    Raises:
        CheckpointError: the folder belongs to another recipe.
    """
    variant = variants()[name]
    if variant.data_of:
        train_variant(variant.data_of, out)
    folder = out / name
    if not (folder / "model").exists():
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
