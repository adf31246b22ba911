"""The pieces of `make gpu-check`: processes, their time, floors, the loop by hand, ncu's words."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu_check import CHECKOUT, engine, few, selfref
from benchmarks.gpu_check.__main__ import seconds_of
from benchmarks.gpu_check.compilations import compilations
from benchmarks.gpu_check.floor import Floor
from benchmarks.gpu_check.hand_written import HandWritten
from benchmarks.gpu_check.ncu import figures_in, refusal_in
from benchmarks.gpu_check.plan import EXTRA, PARTS
from benchmarks.gpu_check.process import PartProcess
from benchmarks.gpu_check.record import ROWS, Record, is_bad, read_rows
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import random_prompts
from benchmarks.gpu_check.tables import summary_of
from benchmarks.kernels import timing
from benchmarks.random_weights import engine_over, model_config
from gsr_engine import SamplingParams
from gsr_engine.model.weights import dummy_decoder

TOTAL = 450.0


def run(code: str, log: Path, seconds: float = 60.0) -> dict[str, Any] | None:
    return PartProcess([sys.executable, "-c", code], log).run(seconds)


def test_a_part_begins_when_it_is_told_and_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    reading = "import sys; print(input(), file=sys.stderr)"
    assert run(reading, log, seconds=33.0) is None
    died = "import os, sys; print('no memory', file=sys.stderr); sys.stderr.flush(); os.abort()"
    assert run(died, log) == {"failed": "ended with status -6: no memory"}
    slow = run("import time; time.sleep(60)", log, seconds=0.5)
    assert slow == {"skipped": "stopped after 0 s, with what was running"}
    assert not is_bad(slow)
    assert run("input()", log, seconds=-1.0) == {"skipped": "no time left"}
    assert log.read_text() == "33.0\nno memory\n"


def test_a_part_that_is_never_told_is_ended_too(tmp_path: Path) -> None:
    process = PartProcess([sys.executable, "-c", "input()"], tmp_path / "log.txt")
    process.end()
    assert process.run(1.0) == {"failed": "ended with status -9: "}


def test_a_row_that_was_torn_disturbs_nobody(tmp_path: Path) -> None:
    writing = f"""
import json, time
file = open({str(tmp_path / ROWS)!r}, "a")
file.write(json.dumps(dict(part="one", table="t", case="whole")) + chr(10))
file.write('{{"part": "one", "table": "t", "ca')
file.flush()
time.sleep(60)
"""
    ended = run(writing, tmp_path / "log.txt", seconds=1.0)
    assert ended is not None
    assert not (tmp_path / ROWS).read_text().endswith("\n")
    assert [row["case"] for row in read_rows(tmp_path)] == ["whole"]
    Record("one", tmp_path, 0.0).add("part", "one", **ended)  # by the parent
    Record("two", tmp_path, 60.0).add("t", "next")
    assert [row["case"] for row in read_rows(tmp_path)] == ["whole", "one", "next"]


def test_the_plan_takes_seven_and_a_half_minutes() -> None:
    assert sum(PARTS.values()) == TOTAL


@given(st.data())
def test_time_goes_to_the_next_part_and_is_lost_by_the_last(data: st.DataObject) -> None:
    gone, taken = 0.0, []
    for part in PARTS:
        seconds = seconds_of(part, PARTS, gone, TOTAL)
        taken.append(seconds)
        before = gone
        # Up to 15 seconds late, as a part that is ended may be.
        gone += data.draw(st.floats(0.0, max(0.0, seconds + 15.0)))
        # Its own seconds of the plan are lost only if all are.
        share = PARTS[part] * (TOTAL - 20.0) / TOTAL
        assert seconds >= min(share, TOTAL - 20.0 - before) - 1e-6
    assert gone <= TOTAL - 5.0 + 1e-6
    assert taken[0] == pytest.approx(PARTS["warm"] * 430.0 / 450.0)


def test_a_missed_target_is_no_failure(tmp_path: Path) -> None:
    record = Record("part", tmp_path, 60.0)
    record.target("fast", asked=0.5, measured=0.75)
    record.target("slow", asked=0.5, measured=0.25)
    rows = read_rows(tmp_path)
    assert [row["met"] for row in rows] == [True, False]
    assert not any(map(is_bad, rows))
    said = summary_of(rows, {"part": 1.0})
    assert "TARGET targets: slow: asked 0.5, measured 0.25, met NO" in said


def test_the_floor_is_counted_from_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(model_config("tiny"), tie_embeddings=False)
    decoder = dummy_decoder(config, torch.float32)
    read = [decoder.head.dense(), decoder.final_norm]
    for layer in decoder.layers:
        linears = layer.qkv, layer.output, layer.mlp.gate_up, layer.mlp.down
        read += [linear.dense() for linear in linears]
        norms = layer.qkv.bias, layer.before_attention, layer.before_mlp
        read += [one for one in norms if one is not None]
    numbers = sum(one.numel() for one in read)
    floor = Floor.of(config, torch.float32, rows=3, tokens=50, seen=70)
    token = 2 * 2 * 2 * 16  # keys and values, layers, kv heads, dimensions
    assert floor.num_bytes == 4 * (numbers + 50 * token)
    assert floor.flops == 2 * 3 * numbers + 70 * 4 * 2 * 4 * 16  # four query heads
    fast = timing.Limits(copy_gbs=1e-6, matmul_tflops=1e-9, launch_us=1.0)
    monkeypatch.setattr("benchmarks.gpu_check.floor.measure_limits", lambda _: fast)
    row = floor.beside(2e6, "cpu")
    assert row["bytes_ms"] == pytest.approx(floor.num_bytes)
    assert row["flops_ms"] == pytest.approx(floor.flops)
    assert row["of_floor"] == pytest.approx(max(floor.num_bytes, floor.flops) / 2e6)


def test_the_loop_by_hand_draws_the_tokens_of_the_engine() -> None:
    torch.manual_seed(1)
    config = replace(model_config("tiny"), tie_embeddings=False)
    decoder = dummy_decoder(config, torch.float32)
    for layer in decoder.layers:  # strong attention: what a step sees decides what it draws
        layer.qkv.weight.mul_(2)
        layer.output.weight.mul_(3)
    loop = HandWritten(decoder, streams=16, length=270)
    params = SamplingParams(n=2, temperature=0.0, max_tokens=20, ignore_eos=True)
    with engine_over(decoder, device="cpu", kv_cache_gib=0.05) as ours:
        for _ in range(2):  # the second time over the caches and steps of the first
            prompts = random_prompts(8, 250, config.vocab_size)
            results = ours.generate(prompts, params)
            expected = [one.token_ids for result in results for one in result.completions]
            assert len({token for tokens in expected for token in tokens}) > 40
            assert loop.generate(prompts, 2, 20) == expected


def test_longer_work_is_skipped_if_it_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, done = Setting(device="cpu", tiny=False, out=tmp_path), []

    def measure(_: Any, sizes: selfref.Sizes, layout: str, __: int, results: Any) -> None:
        done.append((sizes.candidate, layout))
        results[layout] = SimpleNamespace(seconds=12.0 if layout == "linear" else 8.0)

    monkeypatch.setattr(selfref, "measure_layout", measure)
    sizes = selfref.TINY
    first: Any = {layout: SimpleNamespace(seconds=0.1) for layout in ("linear", "branched")}
    decoder = dummy_decoder(model_config("tiny"), torch.bfloat16)
    selfref.longer(sizes, first, decoder, setting, Record("selfref", tmp_path, 20.0))
    assert done == [(16, "linear"), (16, "branched")]
    target, skipped = read_rows(tmp_path)
    assert target["measured"] == pytest.approx(1.5)
    assert "it takes 52 s" in skipped["skipped"]


def test_compilations_are_seen_and_the_hook_is_given_back() -> None:
    knobs = pytest.importorskip("triton").knobs
    seen: list[str] = []

    def hook(**facts: Any) -> None:
        seen.append(facts["repr"])

    def compile_one(name: str) -> None:
        knobs.runtime.jit_post_compile_hook(
            key="", repr=name, fn=None, compile={}, is_manual_warmup=False, already_compiled=False
        )

    knobs.runtime.jit_post_compile_hook = hook
    try:
        with compilations() as compiled:
            compile_one("a kernel")
        compile_one("another")
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == ["a kernel"]
    assert seen == ["a kernel", "another"]


@pytest.mark.parametrize(
    ("compiled", "spans", "counts", "passed"),
    [
        ([], 3, {"replays": 5, "failed": 0, "seconds": 1.0}, True),
        (["_rms_norm_kernel"], 3, {"replays": 5, "failed": 0, "seconds": 1.0}, False),
        ([], 0, {"replays": 5, "failed": 0, "seconds": 1.0}, False),
        ([], 3, {"replays": 0, "failed": 0, "seconds": 1.0}, False),
        ([], 3, {"replays": 5, "failed": 1, "seconds": 1.0}, False),
        ([], 3, None, False),
    ],
)
def test_what_an_engine_promises_on_a_gpu(
    compiled: list[str], spans: int, counts: dict[str, int] | None, passed: bool, tmp_path: Path
) -> None:
    stats = {"shared_spans": {"spans_shared": spans}, "cuda_graphs": counts}
    ran: Any = SimpleNamespace(stats=lambda: stats)
    setting = Setting(device="cuda", tiny=False, out=tmp_path)
    row = engine.what_ran(ran, compiled, "as it comes", setting)
    assert row["passed"] is passed
    record = Record("engine", tmp_path, 60.0)
    record.attempt("what ran", "as it comes", lambda: row)  # its names are nobody else's
    assert [is_bad(one) for one in read_rows(tmp_path)] == [not passed]
    if not compiled:  # without graphs and sharing nothing else is promised
        assert engine.what_ran(ran, compiled, "neither", setting)["passed"]


def test_what_ncu_says_is_read() -> None:
    text = """==PROF== Connected to process 77
==PROF== Profiling "_work_list_kernel": 0%....50%....100% - 38 passes
[77] python3.12@127.0.0.1
  _work_list_kernel (528, 1, 1)x(128, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    ----------------------- ----------- ------------
    DRAM Frequency                  Ghz         2.62
    Memory Throughput                 %        81.53
    Duration                         us       143.20
    Compute (SM) Throughput           %        31.00
    Section: Memory Workload Analysis
    Memory Throughput           Tbyte/s         3.91
    L2 Hit Rate                       %         4.20
    Registers Per Thread register/thread             106
  _reduce_kernel (1,792, 1, 1)x(32, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
  _prefill_kernel (2304, 1, 1)x(256, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Duration                         ms         1,250.5
"""
    first, last = [one for one in figures_in(text) if one[1]]
    assert first == (
        "_work_list_kernel, grid 528, 1, 1",
        {
            "Memory Throughput %": 81.53,
            "Duration us": 143.2,
            "Compute (SM) Throughput %": 31.0,
            "Memory Throughput Tbyte/s": 3.91,
            "L2 Hit Rate %": 4.2,
            "Registers Per Thread register/thread": 106.0,
        },
    )
    assert last == ("_prefill_kernel, grid 2304, 1, 1", {"Duration ms": 1250.5})
    refused = "==PROF== Connected\n==ERROR== ERR_NVGPUCTRPERM - no permission\nlast"
    assert refusal_in(refused) == "ERR_NVGPUCTRPERM - no permission"
    assert refusal_in("ncu: not found") == "ncu: not found"


def test_what_ncu_profiles_runs() -> None:
    few.launch("cpu")


def test_no_part_needs_what_a_gpu_machine_lacks() -> None:
    """Torch, triton, transformers and pytest are there; the extras of this project are not."""
    names = ["datasets", "fastapi", "gguf", "math_verify", "openai", "ray", "tyro", "ziglang"]
    code = f"""
import multiprocessing.dummy
import pickle
import subprocess
import sys
sys.modules.update(dict.fromkeys({names}))
from benchmarks.gpu_check.part import loaded
for part in {[*PARTS, *EXTRA]}:
    loaded(part)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CHECKOUT)
