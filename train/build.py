"""python -m train.build: from problems, candidates and targets to the hybrid set.

    refine    draws sets of candidates from a pool: prompts for the teacher (`train.generate`)
    hybrid    direct and refinement rows for the student, tokenised once: what `train.sft` reads

Both are pure functions of their inputs and settings. What is finished is not done again, and a
result takes its place only when it is whole. An interrupted `hybrid` goes on from the rows that are
tokenised; `refine`, minutes for hundreds of thousands of sets, begins anew.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gsr_engine.checkpoint.files import find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from train.command import log, run_command
from train.files import fingerprint, is_done, whole_file
from train.hybrid.candidate_sets import SetConfig, draw_sets, uniform_weights, write_sets
from train.hybrid.hybrid_set import build_hybrid, work_folder
from train.hybrid.inputs import HybridConfig, HybridFiles
from train.hybrid.sample_pool import SampleFilter, SamplePool
from train.hybrid.student import Student
from train.problems import load_problems
from train.progress import tracked
from train.samples import read_records, sample_files

app = typer.Typer(
    help="Build what a student learns from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProblemsOption = Annotated[
    Path, typer.Option(help="JSONL of problems: id, problem, answer, solution, source.")
]
ModelOption = Annotated[str, typer.Option(help="The student: a folder or a hub id.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]


@app.command()
def refine(
    problems: ProblemsOption,
    candidates: Annotated[Path, typer.Option(help="Samples of the student: a folder or JSONL.")],
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="JSONL of the sets; a card is put beside it.")],
    k: Annotated[str, typer.Option(help="Candidates of a set: least-most, evenly drawn.")] = "4-6",
    sets: Annotated[int, typer.Option(min=1, help="Sets per problem.")] = 1,
    easy: Annotated[float, typer.Option(help="Easy sets kept, as a share of the hard ones.")] = 0.5,
    balance: Annotated[bool, typer.Option(help="Leave out easy sets beyond that share.")] = True,
    keep_truncated: Annotated[bool, typer.Option(help="Show candidates that were cut.")] = False,
    summary_tokens: Annotated[int, typer.Option(help="Longest candidate shown.")] = 1000,
    seed: SeedOption = 0,
) -> None:
    """Draw sets of candidates to refine."""
    config = SetConfig(
        weights=uniform_weights(k),
        sets=sets,
        easy=easy if balance else None,
        summary_tokens=summary_tokens,
        seed=seed,
    )
    student = Student(find_checkpoint(model, weights=False))
    settings = {**asdict(config), "keep_truncated": keep_truncated, **_identity(student)}
    key = fingerprint(settings, [problems, *sample_files(candidates)])
    card = out.with_suffix(".card.json")
    if out.is_file() and is_done(card, key):
        log.info("%s is there already", out)
        return
    card.unlink(missing_ok=True)  # it must not tell of sets that are about to change
    asked = load_problems(problems)
    out.parent.mkdir(parents=True, exist_ok=True)
    keep = SampleFilter(truncated=keep_truncated, wrong=True, unchecked=True)
    pool_file = out.with_suffix(".candidates")
    pool = SamplePool(pool_file, read_records(candidates), keep)
    dropped = Counter({f"candidate: {reason}": n for reason, n in pool.dropped.items()})
    drawn = draw_sets(tracked(asked, "problems", shown=True), pool.of, student, config, dropped)
    counts = write_sets(out, drawn, config.easy, seed)
    pool.close()
    pool_file.unlink()
    told = {"fingerprint": key, "settings": settings, **counts, "dropped": _counted(dropped)}
    with whole_file(card) as file:
        file.write(json.dumps(told, indent=1) + "\n")
    log.info("%s: drawn %s, kept %s", out, counts["drawn"], counts["kept"])


@app.command()
def hybrid(
    problems: ProblemsOption,
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder of the set.")],
    refine: Annotated[Path | None, typer.Option(help="Sets, as `refine` writes them.")] = None,
    direct_targets: Annotated[
        Path | None, typer.Option(help="Samples for the problems; without, their own solutions.")
    ] = None,
    refine_targets: Annotated[
        Path | None, typer.Option(help="Samples for the sets; without, the problems' solutions.")
    ] = None,
    gsr: Annotated[
        Path | None, typer.Option(help="Folder of a gsr.json, not the student's.")
    ] = None,
    layouts: Annotated[str, typer.Option(help="Of refinement rows.")] = "linear,branched",
    in_turn: Annotated[bool, typer.Option(help="Each set in the next layout, not in all.")] = False,
    mix: Annotated[float, typer.Option(help="Share of direct rows.")] = 0.5,
    rows: Annotated[int | None, typer.Option(help="To learn from, at most.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest row; longer ones are dropped.")] = 16_384,
    held_out: Annotated[float, typer.Option(help="Share of the problems held out.")] = 0.01,
    decontaminate: Annotated[str, typer.Option(help="JSONL files of evaluation problems.")] = "",
    ngram: Annotated[int, typer.Option(help="Words that two problems may not share.")] = 13,
    keep_unchecked: Annotated[bool, typer.Option(help="Learn targets without a gold.")] = False,
    seed: SeedOption = 0,
    processes: Annotated[int, typer.Option(min=1, help="That tokenise.")] = 1,
) -> None:
    """Make the hybrid set."""
    config = HybridConfig(
        layouts=tuple(layouts.split(",")),  # type: ignore[arg-type]  # it checks them
        in_turn=in_turn,
        mix=mix,
        rows=rows,
        max_tokens=max_tokens,
        held_out=held_out,
        seed=seed,
    )
    files = HybridFiles(
        problems=problems,
        refine=refine,
        direct_targets=direct_targets,
        refine_targets=refine_targets,
        evaluation=tuple(Path(name) for name in decontaminate.split(",") if name),
        ngram=ngram,
        keep_unchecked=keep_unchecked,
    )
    student = Student(find_checkpoint(model, weights=False), _prompts_of(gsr) if gsr else None)
    settings = {**asdict(config), **files.settings}
    key = fingerprint({**settings, **_identity(student)}, files.paths())
    if is_done(out / "card.json", key):
        log.info("%s is there already", out)
        return
    build_hybrid(
        files.ingredients(work_folder(out, key), seed),
        student,
        config,
        out,
        fingerprint=key,
        settings=settings,
        processes=processes,
        show_progress=True,
    )
    log.info((out / "card.md").read_text(encoding="utf-8"))


def _prompts_of(folder: Path) -> GsrConfig:
    if not (folder / "gsr.json").is_file():
        raise InvalidRequest("gsr", f"{folder} holds no gsr.json")
    return GsrConfig.from_folder(folder)


def _identity(student: Student) -> dict[str, Any]:
    return {"tokenizer": student.tokenizer_hash, "gsr": asdict(student.gsr)}


def _counted(counts: Counter[str]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counts.items()) if count}


if __name__ == "__main__":
    run_command("build", app)
