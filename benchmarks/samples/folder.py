"""The folder of a run. All figures are computed from it, without a model.

    run.json        the facts of the run
    samples.jsonl   a `Sample` a line, all with the same columns: `datasets` reads it

The facts:

    settings    everything that shapes the samples: task, digests of weights, tokenizer and
                problems, sampling, dtype, quantization, hashes of templates; `methods`, each a
                `Method` as a dict
    left_out    problems that could not be asked: [id, reason] of each; an id may repeat
    machine     hardware, versions and commit of the run that finished it
    measured    date, seconds and cost: what another run of the same settings measures otherwise
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Sample, Solution
from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError, InvalidRequest
from train.files import read_jsonl, whole_file

RUN, SAMPLES = "run.json", "samples.jsonl"
FACTS = ("settings", "left_out", "machine", "measured")
MEASURED = ("seconds", "computed_tokens")
"""Columns of answers and samples that another run of the same settings may fill otherwise."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run."""

    facts: dict[str, Any]
    samples: list[Sample]

    @property
    def settings(self) -> dict[str, Any]:
        """What shaped the samples."""
        settings: dict[str, Any] = self.facts["settings"]
        return settings

    @property
    def methods(self) -> list[Method]:
        """What was generated besides the candidates, in order."""
        return [
            Method(**{**one, "widths": tuple(one["widths"])}) for one in self.settings["methods"]
        ]


def write_run(folder: Path, facts: Mapping[str, Any], samples: Iterable[Sample]) -> None:
    """Write both files; run.json comes last, and says that the run is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / SAMPLES) as file:
        for sample in samples:
            file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
    with whole_file(folder / RUN) as file:
        file.write(json.dumps(facts, ensure_ascii=False, indent=1) + "\n")


def read_run(folder: Path, name: str = "run") -> Run:
    """A finished run.

    Raises:
        InvalidRequest: `write_run` did not write this folder; the message begins with `name`, and
            says file and line.
    """
    try:
        facts = read_json(folder / RUN)
    except CheckpointError as error:
        raise InvalidRequest(name, f"{folder} is not a finished run: {error}") from None
    if not isinstance(facts, dict) or not facts.keys() >= set(FACTS):
        raise InvalidRequest(name, f"{folder / RUN} does not hold the facts of a run")
    settings = facts["settings"]
    if not isinstance(settings, dict) or not isinstance(settings.get("methods"), list):
        raise InvalidRequest(name, f"{folder / RUN} names no methods in its settings")
    if not (folder / SAMPLES).is_file():
        raise InvalidRequest(name, f"{folder} has no {SAMPLES}")
    samples = []
    for where, row, *_ in read_jsonl(folder / SAMPLES, name):
        try:
            samples.append(_sample(row))
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest(name, f"{where} is not a sample: {error!r}") from None
    if not samples:
        raise InvalidRequest(name, f"{folder / SAMPLES} holds no sample")
    return Run(facts, samples)


def _sample(row: dict[str, Any]) -> Sample:
    for column in ("candidates", "weak"):
        row[column] = [Solution(**one) for one in row[column]]
    row["answers"] = [Answer(**one) for one in row["answers"]]
    return Sample(**row)
