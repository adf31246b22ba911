"""The kernel benchmark, tiny and without a GPU: every part runs and gives its figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.kernels import (
    FAMILIES,
    measure_decode,
    measure_elementwise,
    measure_experts,
    measure_prefill,
)
from benchmarks.kernels.__main__ import main
from benchmarks.kernels.decode import TINY, DecodeCase
from benchmarks.kernels.worlds import Heads

pytestmark = pytest.mark.slow


def test_attention_is_timed_and_agrees_with_its_peers() -> None:
    rows = [*measure_decode("cpu"), *measure_prefill("cpu")]
    assert [row["kernel"] for row in rows] == ["decode"] * 2 + ["prefill"] * 2
    for row in rows:
        assert "failed" not in row
        assert row["us"] > 0
        for peer in ("sdpa",) if row["kernel"] == "decode" else ("sdpa", "flex"):
            assert row[f"{peer}_ratio"] > 0
            assert row[f"{peer}_error"] < 2e-2  # bf16


def test_experts_are_timed_against_one_product_after_the_other() -> None:
    rows = measure_experts("cpu")
    assert [row["kernel"] for row in rows] == ["experts"] * 2
    for row in rows:
        assert row["one_by_one_ratio"] > 0
        assert row["one_by_one_error"] < 2e-2  # bf16


def test_every_other_kernel_is_timed() -> None:
    rows = measure_elementwise("cpu")
    others = {"rms_norm", "gated_activation", "rope_and_cache", "sample", "token_logprobs"}
    assert {row["kernel"] for row in rows} == others
    assert all(row["of_copy"] > 0 for row in rows)


@pytest.mark.parametrize("sweep", FAMILIES["sweep"])
def test_the_sweeps_run(sweep) -> None:
    assert all(row.get("error", 0) == 0 and row["us"] > 0 for row in sweep("cpu"))


def test_a_case_that_fails_leaves_the_others_alone() -> None:
    broken = DecodeCase(1, 4, heads=Heads(3, 2, 16))
    first, second = measure_decode("cpu", cases=[broken, TINY[0]])
    assert "ValueError" in first["failed"]
    assert second["us"] > 0


def test_rows_are_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(only="decode,prefill", device="cpu", out=tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["kernel"] for row in rows[:3]] == ["machine", "limits", "decode"]
    assert "of copy" in capsys.readouterr().out
