"""python -m benchmarks.report RUN...: what runs found, to look at.

Writes report.md, report.png and report.html into --out, from the folders of finished runs alone. The
page shows all of them, each with its figures and every problem, its candidates and refinements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.analysis.summary import summarize
from benchmarks.report.blocks import Report
from benchmarks.report.document import write_document
from benchmarks.report.facts import facts, lead, run_names
from benchmarks.report.figures import figures
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


def reports_of(runs: Sequence[Run], folders: Sequence[Path]) -> list[Report]:
    """The reports of runs that lie in these folders."""
    names = run_names(runs, [folder.resolve().name for folder in folders])
    return [
        Report(name=name, lead=lead(run), facts=facts(run), blocks=figures(run, summarize(run)))
        for name, run in zip(names, runs, strict=True)
    ]


def main(command: ReportCommand) -> None:
    """What runs found, as Markdown, a picture and one HTML page."""
    folders = command.runs
    out = command.out or (folders[0] if len(folders) == 1 else Path("runs/report"))
    runs = [read_run(folder) for folder in folders]
    reports = reports_of(runs, folders)
    with whole_file(out / MARKDOWN) as file:
        file.write(markdown(reports, PICTURE))
    write_picture(out / PICTURE, reports)
    write_document(out / PAGE, reports, runs)
    log.info("%s: look at %s", out, out / PAGE)


if __name__ == "__main__":
    run_command(
        "report",
        lambda: main(parse_options("benchmarks.report", ReportCommand, main.__doc__ or "")),
    )
