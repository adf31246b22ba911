"""python -m benchmarks.studies: the paper's questions, from training to a report with verdicts.

    python -m benchmarks.studies all
    python -m benchmarks.studies sweep levels        # some of them

Models that a question needs are trained first, runs are measured by the accuracy benchmark, and the
report is made of all questions whose runs are finished. Whatever is finished is not done again, so
the same command goes on after any interruption.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import typer
from transformers.utils.logging import disable_progress_bar

from benchmarks.analysis.results_json import results_of
from benchmarks.analysis.summary import summarize
from benchmarks.samples.folder import RUN, SAMPLES, Run, read_run
from benchmarks.studies.asked import ASKED
from benchmarks.studies.chat import CHATTED
from benchmarks.studies.measured import RESAMPLES, Measured
from benchmarks.studies.picture import draw
from benchmarks.studies.question import Question
from benchmarks.studies.report import markdown
from benchmarks.studies.runs import do_run
from benchmarks.studies.shown import SHOWN
from benchmarks.studies.trained import TRAINED
from gsr_engine.errors import InvalidRequest
from train.command import log, run_command, show_log
from train.signals import resumable

QUESTIONS = {one.name: one for one in (*TRAINED, *ASKED, *SHOWN, *CHATTED)}


def main(
    questions: Annotated[list[str], typer.Argument(help=f"all, or of {', '.join(QUESTIONS)}.")],
    out: Annotated[Path, typer.Option(help="Folder of models, runs and report.")] = Path(
        "runs/studies"
    ),
    chat: Annotated[
        str | None, typer.Option(help="Chat model that `prompting` asks: a folder or hub id.")
    ] = None,
) -> None:
    """Train and measure what is missing, then write the report of all that is there."""
    asked = chosen(questions, chat)
    disable_progress_bar()  # transformers draws one for every file
    with resumable():
        for run in {run.name: run for one in asked for run in one.runs}.values():
            do_run(run, out, chat)
    show_log("")
    write_report(out)


def chosen(names: list[str], chat: str | None) -> list[Question]:
    """The questions of these names. "all" are all; without a chat model, all that ask none.

    Raises:
        InvalidRequest: there is no such question, or it needs a chat model and there is none.
    """
    if names == ["all"]:
        if chat is None:
            log.info("without --chat: %s is left out", ", ".join(one.name for one in CHATTED))
        return [one for one in QUESTIONS.values() if chat or one not in CHATTED]
    for name in names:
        if name not in QUESTIONS:
            known = ", ".join(QUESTIONS)
            raise InvalidRequest("questions", f"must be all, or of {known}; got {name!r}")
        if QUESTIONS[name] in CHATTED and chat is None:
            raise InvalidRequest("chat", f"must name a chat model, which {name} asks")
    return [QUESTIONS[name] for name in dict.fromkeys(names)]


def write_report(out: Path) -> None:
    """The folder `report`, of the questions whose runs are finished.

    It holds report.md, report.png, and of every run its results in lm-eval's keys; samples.sha256
    has the digest of each run's samples, which stay in its folder.
    """
    finished = {
        run.name: Measured(read_run(out / "runs" / run.name))
        for question in QUESTIONS.values()
        for run in question.runs
        if (out / "runs" / run.name / RUN).exists()
    }
    answered = []
    for question in QUESTIONS.values():
        if missing := [one.name for one in question.runs if one.name not in finished]:
            log.info("%s is not in the report: it lacks %s", question.name, ", ".join(missing))
            continue
        answered.append((question, question.answer(finished)))
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(answered, finished), encoding="utf-8")
    draw(finished, folder / "report.png")
    digests = []
    for name, measured in finished.items():
        write_results(folder / f"{name}.json", measured.run)
        samples = (out / "runs" / name / SAMPLES).read_bytes()
        digests.append(f"{hashlib.sha256(samples).hexdigest()}  runs/{name}/{SAMPLES}\n")
    (folder / "samples.sha256").write_text("".join(digests), encoding="utf-8")
    print(f"report: {folder / 'report.md'}, {folder / 'report.png'}")


def write_results(path: Path, run: Run) -> None:
    """A run's results without the summary, which is most of them: the samples have it all."""
    results = results_of(run, summarize(run, RESAMPLES))
    del results["gsr"]["summary"]
    path.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command("studies", lambda: typer.run(main))
