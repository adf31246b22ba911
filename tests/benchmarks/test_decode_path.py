"""The path of a decode step: counted over the engine's own functions, the same at every run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.decode_path import decode_path, main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_path_holds_a_steps_own_functions_and_nothing_else() -> None:
    path = decode_path(temperature=0.0)
    assert path.files[0] == "gsr_engine/engine.py"
    assert path.calls["gsr_engine/engine.py", "Engine.step"] == 1
    assert path.calls["gsr_engine/schedule/scheduler.py", "Scheduler.plan"] == 1
    assert path.calls["gsr_engine/requests/request.py", "Stream.append"] == 16  # all streams
    # Nano has three layers: two norms in each, and one behind them.
    assert path.calls["csrc_triton/contracts/rows.py", "rms_norm"] == 7
    assert all((ROOT / file).is_file() for file in path.files)
    assert sum(len(path.functions(file)) for file in path.files) == len(path.calls)


def test_a_sampled_step_goes_as_far_and_repeats() -> None:
    sampled = decode_path(temperature=1.0)
    assert sampled.calls == decode_path(temperature=1.0).calls
    assert set(sampled.calls) >= set(decode_path(temperature=0.0).calls)


def test_the_command_prints_both(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    for text in ("a decode step, greedy", "a decode step, sampled", "Scheduler.commit", "files"):
        assert text in printed
