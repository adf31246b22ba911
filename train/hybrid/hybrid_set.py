"""The hybrid set: direct and refinement rows of one student, mixed, split and described.

Rows are tokenised in parts, each written whole into a folder of the build. Only then is it known
which rows are too long, held out, or too many of one objective. The splits are copied from the
parts, and the finished folder replaces an older one. An interrupted build with the same fingerprint
goes on from its parts.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import datasets

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS
from train.command import log
from train.dataset import read_parts, write_split
from train.files import replace_folder
from train.hybrid.data_card import describe, save_card
from train.hybrid.inputs import HybridConfig, Ingredients
from train.hybrid.materials import (
    Material,
    direct_materials,
    refine_materials,
    write_parts,
)
from train.hybrid.reasons import in_words
from train.hybrid.splits import choose_rows
from train.hybrid.student import Student
from train.progress import tracked


def build_hybrid(
    ingredients: Ingredients,
    student: Student,
    config: HybridConfig,
    out: Path,
    *,
    fingerprint: str = "",
    settings: dict[str, Any] | None = None,
    processes: int = 1,
    show_progress: bool = False,
) -> Path:
    """Make the set; returns its folder.

    Args:
        ingredients: problems, sets and targets.
        student: who will learn from it.
        config: how rows are made.
        out: the folder; a finished set replaces an older one.
        fingerprint: of ingredients and settings. An interrupted build with the same fingerprint
            goes on; "" starts again.
        settings: settings for the card, if more than `config`.
        processes: number of processes that tokenise.
        show_progress: show a bar on stderr.

    Raises:
        InvalidRequest: no row is left to learn from, an id comes twice, or the student's engine
            would show branched candidates otherwise than rows do.
    """
    branched = len(ingredients.sets) and "branched" in config.layouts
    if branched and student.gsr.candidate_kv != "reread":
        raise InvalidRequest("candidate_kv", 'must be "reread": rows show summaries alone')
    if len({one.id for one in ingredients.problems}) < len(ingredients.problems):
        raise InvalidRequest("problems", "an id comes twice")
    work = work_folder(out, fingerprint)
    dropped = Counter(ingredients.dropped)
    dropped.update(f"problem: {one.reason}" for one in ingredients.findings)
    encoded: Counter[str] = Counter()
    materials = _materials(ingredients, student, config, dropped, encoded, show_progress)
    parts = write_parts(materials, student, work / "parts", processes)
    rows = read_parts(parts)
    objectives = rows.data["objective"].to_pylist()
    indices = choose_rows(rows, config, dropped)
    if not len(indices["train"]):
        held = [objectives[index] for index in indices["held_out"]]
        dropped.update(f"{name}: held out" for name in held)
        raise InvalidRequest("data", f"no row is left to learn from: {in_words(dropped)}")
    splits = {name: rows.select(chosen) for name, chosen in indices.items() if len(chosen)}
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    with _no_progress_bars():
        for name, split in splits.items():
            write_split(finished, name, split)
    description = describe(splits, dropped)
    gsr = _trained_for(student.gsr, description["splits"]["train"])
    gsr.save(finished)
    with (finished / "decontamination.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in ingredients.findings
        )
    made_with = {
        "fingerprint": fingerprint,
        "settings": settings or asdict(config),
        "template_hash": gsr.template.hash,
        "tokenizer_hash": student.tokenizer_hash,
        "sets_encoded_from_text": dict(encoded),
    }
    if encoded:
        log.info("%s sets were encoded from their text: another tokenizer", encoded.total())
    save_card(finished, {**made_with, **description})
    replace_folder(finished, out)
    shutil.rmtree(work)
    return out


def work_folder(out: Path, fingerprint: str) -> Path:
    """The folder of an unfinished build, beside `out`; files of another build are removed."""
    work = out.with_name(f"{out.name}.partial")
    owner = work / "fingerprint"
    if not (fingerprint and owner.is_file() and owner.read_text() == fingerprint):
        shutil.rmtree(work, ignore_errors=True)
        (work / "parts").mkdir(parents=True)
        owner.write_text(fingerprint)
    return work


def _materials(
    ingredients: Ingredients,
    student: Student,
    config: HybridConfig,
    dropped: Counter[str],
    encoded: Counter[str],
    show_progress: bool,
) -> Iterator[Material]:
    yield from direct_materials(
        tracked(ingredients.problems, "direct rows", shown=show_progress),
        ingredients.direct_target,
        dropped,
    )
    yield from refine_materials(
        tracked(ingredients.sets, "refinement rows", shown=show_progress),
        {one.id: one for one in ingredients.problems},
        ingredients.refine_target,
        student.tokenizer_hash,
        config.turns,
        dropped,
        encoded,
    )


def _trained_for(gsr: GsrConfig, split: dict[str, Any]) -> GsrConfig:
    """What a checkpoint trained on the rows can claim.

    Direct rows alone teach no refinement, and a checkpoint that could refine forgets it.
    """
    counts = [int(k) for k in split["by_k"]]
    if not counts:
        return replace(gsr, layouts=("linear",), num_candidates=None, trained=False)
    return replace(
        gsr,
        layouts=tuple(one for one in LAYOUTS if one in split["by_kind"]),
        num_candidates=(min(counts), max(counts)),
        trained=True,
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Silence those of `datasets`."""
    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            datasets.enable_progress_bars()
