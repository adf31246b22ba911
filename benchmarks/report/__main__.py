"""python -m benchmarks.report RUN...: what runs found, to look at.

Writes report.md, report.png and report.html into --out, from the folders of finished runs alone.
The page shows all of them: the figures of each, and every problem with its candidates and what was
made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.analysis.summary import summarize
from benchmarks.report.blocks import Report, Table
from benchmarks.report.document import write_document
from benchmarks.report.facts import facts, lead, run_names
from benchmarks.report.figures import figures, overview
from benchmarks.report.markdown import markdown
from benchmarks.report.picture import write_picture
from benchmarks.samples.folder import Run, read_run
from train.command import log, run_command
from train.files import whole_file
from train.options import parse_options

MARKDOWN, PICTURE, PAGE = "report.md", "report.png", "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCommand:
    """The options.

    Attributes:
        runs: Folders of finished runs, each with run.json and samples.jsonl.
        out: Folder of the report. Default: that of the run; of several runs, runs/report.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    out: Path | None = None


def reports_of(runs: Sequence[Run], folders: Sequence[Path]) -> tuple[list[Report], Table | None]:
    """The reports of runs that lie in these folders, and an overview if there are several."""
    summaries = [summarize(run) for run in runs]  # first: it refuses a run without its settings
    names = run_names(runs, [folder.resolve().name for folder in folders])
    reports = [
        Report(name=name, lead=lead(run), facts=facts(run), blocks=figures(run, summary))
        for name, run, summary in zip(names, runs, summaries, strict=True)
    ]
    return reports, overview(summaries, names) if len(runs) > 1 else None


def main(command: ReportCommand) -> None:
    """What runs found, as Markdown, a picture and one HTML page."""
    folders = command.runs
    out = command.out or (folders[0] if len(folders) == 1 else Path("runs/report"))
    runs = [read_run(folder) for folder in folders]
    reports, several = reports_of(runs, folders)
    with whole_file(out / MARKDOWN) as file:
        file.write(markdown(reports, PICTURE, several))
    write_picture(out / PICTURE, reports)
    write_document(out / PAGE, reports, runs, several)
    log.info("%s: look at %s", out, out / PAGE)


if __name__ == "__main__":
    run_command(
        "report",
        lambda: main(parse_options("benchmarks.report", ReportCommand, main.__doc__ or "")),
    )
