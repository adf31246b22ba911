"""The folder of a run, as it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.samples.folder import FACTS, RUN, SAMPLES, read_run
from gsr_engine import InvalidRequest

WELL: dict[str, Any] = {**{fact: {} for fact in FACTS}, "settings": {"methods": []}}


@pytest.mark.parametrize(
    ("facts", "samples", "message"),
    [
        ({}, "{}\n", "does not hold the facts"),
        ({**WELL, "settings": []}, "{}\n", "names no methods"),
        (WELL, None, "has no samples.jsonl"),
        (WELL, "", "holds no sample"),
        (WELL, "{}\n", "line 1 is not a sample: KeyError"),
    ],
)
def test_what_is_no_run_is_named(
    facts: dict[str, Any], samples: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / RUN).write_text(json.dumps(facts))
    if samples is not None:
        (tmp_path / SAMPLES).write_text(samples)
    with pytest.raises(InvalidRequest, match=f"run: .*{message}"):
        read_run(tmp_path)
