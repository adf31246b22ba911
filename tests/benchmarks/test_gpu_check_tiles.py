"""`make gpu-check`: the kernels that it compiles first, and the tiles that it sweeps."""

from __future__ import annotations

import multiprocessing.dummy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import sweep, warm
from benchmarks.gpu_check.record import Record, is_bad, read_rows
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.warm_jobs import jobs, model_jobs
from benchmarks.kernels.elementwise import ElementwiseCase
from benchmarks.kernels.launches import recorded
from benchmarks.kernels.prefill import TINY, PrefillWorld
from benchmarks.kernels.rows import Emit
from benchmarks.kernels.sweep import PREFILL_TILES, prefill_with
from benchmarks.kernels.worlds import Heads
from benchmarks.random_weights import engine_over, model_config
from csrc_triton import pages
from csrc_triton.tiling import Tiles
from gsr_engine import EngineConfig, SamplingParams, SelfRefineParams
from gsr_engine.execution.device import paged_runner
from gsr_engine.model.weights import dummy_decoder
from gsr_engine.params import LAYOUTS

HEADS = Heads(4, 2, 16)


def test_tiles_are_cut_before_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that cuts them waits for the GPU, which no capture may."""
    pytest.importorskip("triton")
    runs = [prefill_with(PrefillWorld.of(TINY[0], "cpu"), tile) for tile in PREFILL_TILES]
    monkeypatch.setattr(Tiles, "cut", None)
    with recorded() as launches:
        for prefill in runs:
            prefill()
    sizes = [launch.constants["block_m"] for launch in launches if "prefill" in launch.name]
    assert sizes == [tile[0] for tile in PREFILL_TILES]


def test_a_swept_tile_that_does_not_fit_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("out of resources")

    todo = [("tile of a sweep", broken), ("decode", broken)]
    monkeypatch.setattr(warm, "jobs", lambda _: todo)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: multiprocessing.dummy)
    monkeypatch.chdir(tmp_path)
    setting = Setting(device="cpu", tiny=True, out=tmp_path)
    warm.run(setting, Record("warm", tmp_path, 60.0))
    rows = {row["case"]: row for row in read_rows(tmp_path)}
    assert rows["tile of a sweep"]["unfit"] == "RuntimeError: out of resources"
    assert [case for case, row in rows.items() if is_bad(row)] == ["decode"]


def test_a_tile_that_does_not_fit_leaves_the_sweep_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tiles(_: str, cases: object, emit: Emit) -> None:
        for tile, figures in (("1", {"us": 3.0}), ("2", {"us": 2.0}), ("3", {"failed": "no"})):
            emit({"kernel": "decode tile", "case": f"a case, tile {tile}", **figures})

    monkeypatch.setattr(sweep, "sweep_decode_tiles", tiles)
    setting = Setting(device="cpu", tiny=True, out=tmp_path)
    sweep.run(setting, Record("sweep", tmp_path, 60.0))
    rows = [row for row in read_rows(tmp_path) if "a case" in row["case"]]
    assert [row for row in rows if is_bad(row)] == []
    assert [row.get("us") for row in rows] == [3.0, 2.0, None, 2.0]
    assert rows[2]["unfit"] == "no"


def test_the_warm_up_knows_every_kernel_and_tile() -> None:
    names = [name for name, _ in jobs(tiny=False)]
    assert pickle.dumps(list(jobs(tiny=False)))  # they are sent to other processes
    assert len(set(names)) == len(names)
    for part in ("7b bfloat16", "0.5b bfloat16", "0.5b float32"):
        assert f"{part}, prefill" in names
        assert sum(name.startswith(f"{part}, decode") for name in names) == 4
        for kernel, count in (("sample", 1), ("rms_norm", 3), ("gated_activation", 2)):
            assert sum(name.startswith(f"{part}, {kernel}") for name in names) == count
    assert sum(name.startswith("tile prefill (") for name in names) == len(PREFILL_TILES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_warm_up_asks_for_what_an_engine_launches(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So Triton's cache has every program before an engine starts."""
    pytest.importorskip("triton")
    # Kernels that are recorded write nothing; zeros are finite. They read no packed pages.
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch, "empty_like", lambda x, **_: torch.zeros(x.shape, dtype=x.dtype))
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)
    monkeypatch.setattr(pages, "vector_major", pages.token_major)
    decoder = dummy_decoder(model_config("tiny"), dtype)
    with recorded() as warmed:
        for _, job in model_jobs("tiny", ElementwiseCase(3, 64, 96, 512, HEADS, dtype)):
            job("cpu")
    config = EngineConfig(kv_cache_gib=0.01)
    runner = paged_runner(decoder, config, lag=1, use_graphs=True)
    tokens = SamplingParams(max_tokens=4, ignore_eos=True)
    with recorded() as launches, engine_over(decoder, runner, kv_cache_gib=0.01) as ours:
        for n in (1, 12, 20):
            ours.generate([[7] * 150, [8] * 5], replace(tokens, n=n))
        for layout in LAYOUTS:
            params = SelfRefineParams(k=3, layout=layout, candidate=tokens, refine=tokens)
            ours.self_refine(["12", "34"], params)
    assert len({one.name for one in launches}) == 9  # a CPU's products contain the gate
    for one in launches:
        assert one in warmed, one
