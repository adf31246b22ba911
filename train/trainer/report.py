"""The report card of a run: OUT/report.md and OUT/report.png, from the files of the run.

python -m train.trainer.report OUT
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import typer
from matplotlib import pyplot as plt  # after the backend is chosen

from gsr_engine.checkpoint.files import read_json
from gsr_engine.environment import describe_machine
from gsr_engine.errors import CheckpointError, InvalidRequest
from train.command import log, run_command
from train.files import parse_object

mpl.use("Agg")

Entry = dict[str, Any]
_HELD_OUT = "held_out"


_COUNTS = {"lr", "tokens", "tokens_per_second", "padding", "skipped"}
_PERHAPS = {"loss", "grad_norm", "mfu", "mfu_full", "memory_gib"}
"""Numbers of a training line that the report reads; the second ones may be null."""


def write_report(out: Path) -> None:
    """Write both files, over older ones.

    Raises:
        InvalidRequest: the folder holds no run.
    """
    try:
        config = read_json(out / "config.json")
        entries = read_log(out / "log.jsonl")
    except (OSError, CheckpointError) as error:
        raise InvalidRequest("out", f"{out} holds no run: {error}") from None
    training = [one for one in entries if "loss" in one]
    held_out = [one for one in entries if _kind(one) == _HELD_OUT]
    measured = [{"step": one["step"], **one["selfref"]} for one in entries if "selfref" in one]
    _plot(out / "report.png", training, held_out, measured)
    card = Path(str(config.get("data"))) / "card.md"
    data = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "no card.md"
    sections = [
        f"# {out.name}",
        "![losses, rates, selfRef@k](report.png)",
        "## Results\n\n" + _table(_results(training, held_out, measured)),
        "## Rows learnt from\n\n" + _table(_strata(training)),
        "## Settings\n\n" + _table(config),
        "## Machine at the end of the run\n\n" + _table(describe_machine()),
        "## Data\n\n" + data.replace("\n#", "\n###").replace("# ", "### ", 1),
    ]
    (out / "report.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def read_log(file: Path) -> list[Entry]:
    """The lines of a log, by step. Of a step that was repeated after a resume the last line counts.

    A line that no run wrote, e.g. after a power cut, is left out with a warning.
    """
    latest: dict[tuple[str, int], Entry] = {}
    for number, line in enumerate(file.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n") and line.strip():  # otherwise an interruption tore it
            try:
                entry = _checked(parse_object(line, "log", f"{file} line {number}"))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                log.warning("%s line %d is left out, no run wrote it: %r", file, number, error)
                continue
            latest[_kind(entry), entry["step"]] = entry
    return sorted(latest.values(), key=lambda entry: entry["step"])


def _checked(entry: Entry) -> Entry:
    """The entry, if it is one of `train.trainer.log`.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not.
    """
    perhaps = [entry[name] for name in entry if name.startswith(("loss_", "held_out_"))]
    numbers = [entry["step"]]
    if "loss" in entry:
        numbers += [entry[name] for name in _COUNTS]
        numbers += [*entry["rows"].values(), *entry["num_correct"].values()]
        numbers += map(int, entry["num_correct"])
        perhaps += [entry[name] for name in _PERHAPS]
    elif "selfref" in entry:
        perhaps += entry["selfref"].values()
    elif not perhaps:
        raise KeyError("loss")
    for number in [*numbers, *(one for one in perhaps if one is not None)]:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{number!r:.40} is no number")
    return entry


def _kind(entry: Entry) -> str:
    """The kind of a line: training, held out, or selfRef@k, as `train.trainer.log` lists them."""
    if "loss" in entry or "selfref" in entry:
        return "loss" if "loss" in entry else "selfref"
    return _HELD_OUT


def _objectives(entry: Entry) -> list[str]:
    """The objectives of a run, from the names of its losses."""
    return [name.removeprefix("loss_") for name in entry if name.startswith("loss_")]


def _results(
    training: Sequence[Entry], held_out: Sequence[Entry], measured: Sequence[Entry]
) -> Entry:
    if not training:
        return {"steps": "the log has no line of a step"}
    last = training[-1]
    tokens = sum(one["tokens"] for one in training)
    facts: Entry = {
        "steps": last["step"],
        "tokens": f"{tokens:,}",
        "tokens/s, median of the log": f"{_middle(training, 'tokens_per_second'):,.0f}",
        "padding": f"{_middle(training, 'padding'):.1%}",
        **{f"loss {name}, last": last[f"loss_{name}"] for name in _objectives(last)},
        "steps skipped (gradients not finite)": sum(one["skipped"] for one in training),
    }
    if last["mfu"] is not None:
        rates = [_middle(training, name) for name in ("mfu", "mfu_full")]
        facts["MFU by visible pairs / by all pairs"] = " / ".join(f"{rate:.1%}" for rate in rates)
    if last["memory_gib"] is not None:
        facts["memory, GiB"] = max(one["memory_gib"] or 0.0 for one in training)
    for name, value in (held_out[-1] if held_out else {}).items():
        if name != "step" and value is not None:
            facts[name.replace("_", " ")] = value
    for name, value in (measured[-1] if measured else {}).items():
        if name != "step":
            facts[f"selfRef: {name}"] = value
    return facts


def _strata(training: Sequence[Entry]) -> Entry:
    rows, right = Counter[str](), Counter[str]()
    for entry in training:
        rows.update(entry["rows"])
        right.update(entry["num_correct"])
    strata: Entry = {f"{kind} rows": count for kind, count in sorted(rows.items())}
    for number, count in sorted(right.items(), key=lambda item: int(item[0])):
        name = "nobody checked" if number == "-1" else f"{number} right candidates"
        strata[f"refinement rows, {name}"] = count
    return strata


def _table(facts: Entry) -> str:
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _middle(entries: Sequence[Entry], name: str) -> float:
    known = [one[name] for one in entries if one[name] is not None]
    return float(statistics.median(known)) if known else math.nan


def _plot(
    path: Path, training: Sequence[Entry], held_out: Sequence[Entry], measured: Sequence[Entry]
) -> None:
    figure, panels = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
    losses, rates, norms, accuracy = panels.flat
    for index, name in enumerate(_objectives(training[-1]) if training else []):
        shown = {"color": f"C{index}"}
        _line(losses, training, f"loss_{name}", name, **shown)
        _line(losses, held_out, f"held_out_{name}", f"{name}, held out", marker="o", **shown)
    losses.set(title="loss per target token", yscale="log")
    _line(rates, training, "tokens_per_second", "tokens/s", color="tab:green")
    rates.set(title="tokens/s", ylim=(0, None))
    _line(norms, training, "grad_norm", "gradient norm", color="tab:red")
    norms.set(title="gradient norm and learning rate", yscale="log")
    schedule = norms.twinx()
    _line(schedule, training, "lr", "learning rate", color="grey", linestyle=":")
    schedule.set_ylabel("learning rate", color="grey")
    names = [name for name in (measured[0] if measured else {}) if name not in ("step", "problems")]
    for name in names:
        refined = name in ("linear", "branched")
        _line(accuracy, measured, name, f"selfRef {name}" if refined else name, marker="o")
    accuracy.set(title="selfRef@k" if measured else "selfRef@k was not measured")
    for panel in panels.flat:
        panel.set_xlabel("step")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axes: Any, entries: Sequence[Entry], name: str, label: str, **style: Any) -> None:
    points = [(one["step"], one[name]) for one in entries if one.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=label, lw=1.2, ms=3, **style)


def main(out: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Write the report card of a run."""
    write_report(out)


if __name__ == "__main__":
    run_command("report", lambda: typer.run(main))
