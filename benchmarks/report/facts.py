"""The head of a report: what was run, how, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from benchmarks.report.blocks import Fact
from benchmarks.samples.folder import Run

_TOLD = ("methods", "task", "model")
"""Settings that stand elsewhere in a report."""
_NAMED = 20
"""Problems that were left out and are named; more are counted."""


def short_model(run: Run) -> str:
    """The last part of the model's path or hub id."""
    model = str(run.settings["model"])
    return PurePath(model).name or model


def run_names(runs: Sequence[Run], folders: Sequence[str]) -> list[str]:
    """A name for each run: model and task, and its folder where that does not tell them apart."""
    names = [f"{short_model(run)} · {run.settings['task']}" for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} · {folder}"
        for name, folder in zip(names, folders, strict=True)
    ]


def lead(run: Run) -> str:
    """What was run, in one sentence."""
    settings, samples = run.settings, run.samples
    problems = len({sample.id for sample in samples})
    drawn = max(len(sample.candidates) for sample in samples)
    repeats, temperature = settings["repeats"], settings.get("temperature")
    warmth = "" if temperature is None else f" at temperature {temperature:g}"
    return (
        f"{short_model(run)} on {count(problems, 'problem')} of {settings['task']}: "
        f"{count(drawn, 'candidate')} of each{warmth}"
        f"{f', {repeats} repeats of the whole pipeline' if repeats > 1 else ''}; "
        f"k = {', '.join(map(str, settings['k']))}; {run.facts['measured']['date']}."
    )


def count(number: int, noun: str) -> str:
    """A number of things in words."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def facts(run: Run) -> tuple[Fact, ...]:
    """Settings, machine, what was left out, seconds."""
    return tuple(Fact(name=name, value=value) for name, value in _facts(run))


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    yield "model", str(run.settings["model"])
    yield "task", str(run.settings["task"])
    for name, value in run.settings.items():
        if name not in _TOLD and value not in (None, [], {}):
            yield name.replace("_", " "), text(value)
    for name, value in run.facts["machine"].items():
        yield name, text(value)
    yield "date", str(run.facts["measured"]["date"])
    yield "seconds", f"{run.facts['measured']['seconds']:,.0f}"
    left_out = run.facts["left_out"]
    for problem, reason in left_out[:_NAMED]:
        yield "left out", f"{problem}: {reason}"
    if len(left_out) > _NAMED:
        yield "left out", f"and {len(left_out) - _NAMED:,} more, in run.json"


def text(value: Any) -> str:
    """A setting in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
