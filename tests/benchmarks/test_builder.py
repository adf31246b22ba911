"""The builder's synthetic records have the sizes that they name, and a set is built of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training.builder import hybrid_arguments, measure, refine_arguments
from benchmarks.training.builder_inputs import (
    Cutter,
    answer_sets,
    corpus,
    write_inputs,
    write_student,
)
from tests.helpers.build_inputs import run_build

pytestmark = pytest.mark.slow


def test_synthetic_records_make_a_set(tmp_path: Path) -> None:
    text, student = corpus()[:300_000], tmp_path / "student"
    student.mkdir()
    write_student(student, text)
    cutter = Cutter.of(text, student)
    for kind in ("problem", "candidate"):
        piece, ids = cutter.piece(kind)
        assert piece in text
        assert 0 < len(ids) < len(piece)
    inputs = write_inputs(tmp_path, cutter, prompts=12, pool=6)
    assert inputs.bytes > 12 * 4 * 5000
    sets, out = tmp_path / "sets.jsonl", tmp_path / "set"
    run_build(*refine_arguments(inputs, student, sets))
    answer_sets(sets, inputs.refine_targets)
    hybrid = hybrid_arguments(inputs, student, sets, out)
    run_build(*hybrid, "--max-tokens=30000", "--held-out=0")
    kinds = json.loads((out / "card.json").read_text())["splits"]["train"]["by_kind"]
    assert kinds == {"branched": 6, "direct": 12, "linear": 6}


def test_a_command_is_measured(tmp_path: Path) -> None:
    (tmp_path / "written").write_bytes(b"12345")
    measured = measure(["--help"], tmp_path)
    assert measured.seconds > 0
    assert measured.peak_bytes > 2**20
    assert measured.written_bytes == 5
