"""Runs to report on, and their page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.report.__main__ import PAGE, ReportCommand, main, reports_of
from benchmarks.report.document import write_document
from benchmarks.samples.folder import Run, write_run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Sample
from tests.helpers.runs import GREEDY, LINEAR, run_of, sample

BRANCHED = Method(name="selfref branched@2", kind="selfref", layout="branched", k=2)
METHODS = (GREEDY, LINEAR, BRANCHED)


def random_run(problems: int = 30, repeats: int = 1, seed: int = 0) -> Run:
    """Answers at random: 7 is right, None is none; some solutions are cut."""
    rng = np.random.default_rng(seed)

    def drawn(count: int) -> list[str | None]:
        return [(None, "7", "7", "8", "9")[one] for one in rng.integers(5, size=count)]

    samples: list[Sample] = []
    for repeat in range(repeats):
        for number in range(problems):
            answers = dict(zip((one.name for one in METHODS), drawn(3), strict=True))
            made = sample(f"p{number}", drawn(6), answers, repeat=repeat, size=f"{number % 3}")
            made.answers[-1].used = [1, 0]
            for one in (*made.candidates, *made.answers):
                one.finish_reason = "length" if rng.random() < 0.2 else "stop"
                if one.answer is None and rng.random() < 0.3:
                    one.error, one.finish_reason = "the server is gone", "error"
            samples.append(made)
    return run_of(samples, METHODS)


def write_report(folder: Path, *runs: Run) -> Path:
    """The folder of the report of some runs."""
    folders = []
    for number, run in enumerate(runs):
        folders.append(folder / f"run{number}")
        write_run(folders[-1], run.facts, run.samples)
    main(ReportCommand(runs=tuple(folders), out=folder / "report"))
    return folder / "report"


def write_page(folder: Path, *runs: Run) -> Path:
    """The page of some runs, alone."""
    reports, overview = reports_of(runs, [folder / str(number) for number in range(len(runs))])
    write_document(folder / PAGE, reports, runs, overview)
    return folder / PAGE
