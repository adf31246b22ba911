"""python -m train.build: from problems, candidates and targets to the hybrid set.

    refine    draws sets of candidates from a pool: prompts for the teacher (`train.generate`)
    hybrid    direct and refinement rows for the student, tokenised once: what `train.sft` reads

Both are pure functions of their inputs and settings. What is finished is not done again, and a
result appears when it is whole. An interrupted `hybrid` goes on from the rows that are tokenised.
`refine` starts again: it takes minutes for hundreds of thousands of sets.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS, Layout
from train.command import log, run_command
from train.files import fingerprint, is_done, whole_file
from train.hybrid.candidate_sets import (
    SetConfig,
    draw_sets,
    size_range,
    uniform_weights,
    write_sets,
)
from train.hybrid.hybrid_set import build_hybrid, work_folder
from train.hybrid.inputs import HybridConfig, HybridFiles
from train.hybrid.reasons import in_words
from train.hybrid.sample_pool import SampleFilter, SamplePool
from train.hybrid.student import Student
from train.options import check_least, one_word, parse_subcommand, part_of
from train.problems import load_problems
from train.progress import tracked
from train.samples import read_records, sample_files
from train.signals import resumable

_SIZES = one_word("LEAST-MOST", uniform_weights, size_range)
_LAYOUTS = one_word("LAYOUT,...", lambda text: tuple(text.split(",")), ",".join)
_FILES = one_word(
    "FILE,...",
    lambda text: tuple(Path(name) for name in text.split(",") if name),
    lambda paths: ",".join(map(str, paths)),
)


@dataclass(frozen=True, kw_only=True)
class RefineOptions(SetConfig):
    """Draw sets of candidates to refine.

    Attributes:
        problems: JSONL of problems: id, problem, answer, solution, source.
        candidates: samples of the student: a folder or JSONL.
        model: the student: a folder or a hub id.
        out: JSONL of the sets; a card is written beside it.
        weights: candidates of a set: least-most, each size equally likely.
        balance: leave out easy sets beyond that share.
        keep_truncated: show candidates that were cut.
    """

    problems: Path
    candidates: Path
    model: str
    out: Path
    weights: Annotated[tuple[float, ...], tyro.conf.arg(name="k"), _SIZES] = uniform_weights("4-6")
    balance: bool = True
    keep_truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class HybridOptions(HybridConfig, HybridFiles):
    """Make the hybrid set.

    Attributes:
        model: the student: a folder or a hub id.
        out: folder of the set.
        gsr: folder of a gsr.json to use instead of the student's.
        layouts: of refinement rows.
        evaluation: JSONL files of evaluation problems, which must not be learnt from.
        processes: that tokenise.
    """

    model: str
    out: Path
    gsr: Path | None = None
    layouts: Annotated[tuple[Layout, ...], _LAYOUTS] = LAYOUTS
    evaluation: Annotated[tuple[Path, ...], tyro.conf.arg(name="decontaminate"), _FILES] = ()
    processes: int = 1

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        HybridConfig.__post_init__(self)
        HybridFiles.__post_init__(self)
        check_least(self, processes=1)
        if self.refine is None and self.mix < 1:
            raise InvalidRequest(
                "mix",
                f"is {self.mix:g}, but there are no refinement rows without --refine; "
                "--mix 1 takes direct rows alone",
            )


def refine(options: RefineOptions) -> None:
    """Draw sets of candidates to refine."""
    easy = options.easy if options.balance else None
    config = part_of(SetConfig, options, easy=easy)
    student = Student(find_checkpoint(options.model, weights=False))
    settings = {
        **asdict(config),
        "keep_truncated": options.keep_truncated,
        **_identity(student),
    }
    out = options.out
    key = fingerprint(settings, [options.problems, *sample_files(options.candidates)])
    card = out.with_suffix(".card.json")
    if out.is_file() and is_done(card, key):
        log.info("%s is there already", out)
        return
    card.unlink(missing_ok=True)  # it must not describe sets that are about to change
    problems = load_problems(options.problems)
    out.parent.mkdir(parents=True, exist_ok=True)
    keep = SampleFilter(truncated=options.keep_truncated, wrong=True, unchecked=True)
    pool = SamplePool(out.with_suffix(".candidates"), read_records(options.candidates), keep)
    with closing(pool):
        dropped = Counter({f"candidate: {reason}": n for reason, n in pool.dropped.items()})
        dropped["candidate: of another problem"] = len(pool) - pool.count(p.id for p in problems)
        shown = tracked(problems, "problems", shown=True)
        sets = draw_sets(shown, pool.of, student, config, dropped)
        counts = write_sets(out, sets, config.easy, config.seed)
    if not counts["kept"]:
        dropped["set: easy"] = counts["drawn"].get("easy", 0)
        least, _, _ = size_range(config.weights).partition("-")
        raise InvalidRequest("candidates", f"no set is left: {in_words(dropped, least=least)}")
    facts = {
        "fingerprint": key,
        "settings": settings,
        **counts,
        "dropped": _counted(dropped),
        "encoded_from_text": _counted(student.encoded),
    }
    with whole_file(card) as file:
        file.write(json.dumps(facts, indent=1) + "\n")
    for reason, count in _counted(student.encoded).items():
        log.info("%s candidates were encoded from their text: %s", f"{count:,}", reason)
    log.info("%s: drawn %s, kept %s", out, counts["drawn"], counts["kept"])


def hybrid(options: HybridOptions) -> None:
    """Make the hybrid set."""
    config, files = part_of(HybridConfig, options), part_of(HybridFiles, options)
    prompts = _prompts_of(options.gsr) if options.gsr else None
    student = Student(find_checkpoint(options.model, weights=False), prompts)
    settings = {**asdict(config), **files.settings}
    out = options.out
    key = fingerprint({**settings, **_identity(student)}, files.paths())
    if is_done(out / "card.json", key):
        log.info("%s is there already", out)
        return
    work = work_folder(out, key)
    try:
        build_hybrid(
            files.ingredients(work, config.seed),
            student,
            config,
            out,
            fingerprint=key,
            settings=settings,
            processes=options.processes,
            show_progress=True,
        )
    except InvalidRequest:  # the same inputs would be refused again
        shutil.rmtree(work, ignore_errors=True)
        raise
    log.info((out / "card.md").read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what a student learns from."""
    kinds = {"refine": RefineOptions, "hybrid": HybridOptions}
    options = parse_subcommand("train.build", kinds, f"{main.__doc__}\n\n{__doc__}", arguments)
    with resumable():
        if isinstance(options, RefineOptions):
            refine(options)
        else:
            hybrid(options)


def _prompts_of(folder: Path) -> GsrConfig:
    if not (folder / "gsr.json").is_file():
        raise InvalidRequest("gsr", f"{folder} holds no gsr.json")
    return GsrConfig.from_folder(folder)


def _identity(student: Student) -> dict[str, Any]:
    return {"tokenizer": student.tokenizer_hash, "gsr": asdict(student.gsr)}


def _counted(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counts.items()) if count}


if __name__ == "__main__":
    run_command("build", main)
