"""The report card shows what the log holds; of a step that was done twice, the second time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import InvalidRequest
from train.trainer.config import SftConfig
from train.trainer.log import RunLog
from train.trainer.report import read_log, write_report


def line(step: int, **fields: Any) -> str:
    entry = {
        "step": step, "seconds": 1.0, "loss": 3.0, "loss_direct": 1.0, "loss_refine": 2.0,
        "lr": 1e-3, "grad_norm": 0.5, "tokens": 1000, "tokens_per_second": 500.0, "padding": 0.1,
        "tflops": 0.1, "mfu": None, "mfu_full": None, "memory_gib": None,
        "rows": {"direct": 2, "linear": 1}, "num_correct": {"3": 1}, "skipped": 0,
    }  # fmt: skip
    return json.dumps(entry | fields) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    out, data = tmp_path / "my-run", tmp_path / "data"
    out.mkdir()
    data.mkdir()
    (data / "card.md").write_text("# Data card\n\n## Rows\n\n17 rows of the card\n")
    (out / "config.json").write_text(json.dumps({"data": str(data), "lr": 0.00123}))
    lines = [
        line(10), line(20, loss_direct=9.9), line(20, loss_direct=0.25, skipped=1),
        json.dumps({"step": 20, "held_out_direct": 0.5, "held_out_refine": 0.75}) + "\n",
        json.dumps({"step": 20, "selfref": {"maj@k": 0.5, "linear": 0.875, "problems": 8}}) + "\n",
    ]  # fmt: skip
    (out / "log.jsonl").write_text("".join(lines))
    return out


def test_the_report_says_what_happened(run: Path) -> None:
    write_report(run)
    text = (run / "report.md").read_text()
    for fact in (
        "# my-run", "| tokens | 2,000 |", "| loss direct, last | 0.25 |", "| direct rows | 4 |",
        "| refinement rows, 3 right candidates | 2 |", "| held out refine | 0.75 |",
        "| lr | 0.00123 |", "| selfRef: linear | 0.875 |", "17 rows of the card",
        "| steps skipped (gradients not finite) | 1 |",
    ):  # fmt: skip
        assert fact in text, fact
    assert "9.9" not in text
    assert "MFU" not in text
    assert (run / "report.png").stat().st_size > 10_000


def test_rates_of_a_known_gpu_are_told(run: Path) -> None:
    (run / "log.jsonl").write_text(line(10, mfu=0.412, mfu_full=0.45, memory_gib=61.5))
    write_report(run)
    text = (run / "report.md").read_text()
    assert "| MFU by visible pairs / by all pairs | 41.2% / 45.0% |" in text
    assert "| memory, GiB | 61.5 |" in text


def test_a_torn_line_is_none_and_the_log_goes_on_behind_it(run: Path) -> None:
    file = run / "log.jsonl"
    before = read_log(file)
    file.write_bytes(file.read_bytes() + b'{"step": 20, "lo')
    assert read_log(file) == before
    log = RunLog(SftConfig(model="m", data=run, out=run), writes=True)
    log.write({"step": 30, "selfref": {}})
    log.close()
    assert read_log(file) == [*before, {"step": 30, "selfref": {}}]


def test_the_last_line_of_a_step_counts(run: Path) -> None:
    entries = read_log(run / "log.jsonl")
    assert [entry["step"] for entry in entries] == [10, 20, 20, 20]
    assert [entry["loss_direct"] for entry in entries if "loss" in entry] == [1.0, 0.25]


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no run"):
        write_report(tmp_path)
