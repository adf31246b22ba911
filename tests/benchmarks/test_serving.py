"""The serving benchmark with nano and few tokens: its fields are right; no test is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.serving.__main__ import main
from benchmarks.serving.overhead import Overhead

pytestmark = pytest.mark.slow


def test_what_http_costs() -> None:
    overhead = Overhead(100, inside=1.0, outside=2.0, first_inside=0.010, first_outside=0.013)
    assert overhead.throughput == 0.5
    assert overhead.first_ms == pytest.approx(3.0)


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        model=None,
        requests=2,
        tokens=3,
        looks=2,
        rounds=1,
        dtype="float32",
        threads=1,
        kv_gib=0.02,
        out=tmp_path,
    )
    assert "ms to the first token" in capsys.readouterr().out
    found = json.loads((tmp_path / "serving.json").read_text())
    assert found["overhead"]["tokens"] == 6
    assert all(value > 0 for value in found["overhead"].values())
