"""The choice of the device, calls that go to it, and the error if a GPU is missing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from csrc_triton import tiles
from gsr_engine import Engine, EngineConfig, InvalidRequest, SamplingParams
from gsr_engine.execution import gpu
from gsr_engine.execution.gpu import (
    check_capability,
    check_head_dim,
    choose_device,
    on_device,
)
from tests.helpers.playing import GPU, Visits, gpu_engine


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(qwen2: Path) -> None:
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InvalidRequest, match="device: 'cuda' was asked for"):
        Engine.from_pretrained(qwen2, device="cuda")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_chosen_by_its_number() -> None:
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")
    message = r"^device: 'cuda:2' was asked for, and torch sees 2: cuda:0 to cuda:1$"
    with pytest.raises(InvalidRequest, match=message):
        choose_device(EngineConfig(device="cuda:2").device)


@pytest.mark.parametrize(
    "name", ["cuda:", "cuda:-1", "cuda:x", "CUDA", "gpu", "cuda:1234", 1, None]
)
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="device: must be auto, cpu, cuda or cuda:N, got"):
        EngineConfig(device=name)


@pytest.mark.parametrize(("capability", "runs"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_an_old_chip_is_refused_by_its_capability(
    capability: tuple[int, int], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_capability(torch.device("cpu"))
    if runs:
        check_capability(GPU)
        return
    with pytest.raises(InvalidRequest, match=r"cuda:1 has compute capability 7.5, .* need 8.0"):
        check_capability(GPU)


def test_heads_that_the_kernels_of_a_gpu_do_not_take_are_refused() -> None:
    check_head_dim(torch.device("cpu"), 48)
    check_head_dim(GPU, 64)
    with pytest.raises(InvalidRequest, match="head_dim is 48, and the kernels of cuda:1 take 16"):
        check_head_dim(GPU, 48)


@pytest.mark.parametrize("block_d", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_every_chip_has_tiles_for_every_head(
    capability: tuple[int, int], block_d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded ahead, with the queries, fits; `make kernels-aot` has the exact sizes."""
    monkeypatch.setattr(tiles, "capability", lambda _: capability)
    room = {(8, 0): 166_912, (8, 7): 166_912, (9, 0): 232_448, (10, 0): 232_448}
    decode = [tiles.decode_tile(lanes, block_d, torch.bfloat16, GPU) for lanes in (7, 28, 112)]
    for tile in (*decode, tiles.prefill_tile(block_d, torch.bfloat16, GPU)):
        ahead = 2 * tile.block_n * (tile.num_stages - 1) * block_d * 2
        assert ahead + tile.block_m * block_d * 2 <= room.get(capability, 101_376)


def test_on_a_cpu_nothing_is_entered() -> None:
    assert on_device(torch.device("cpu")) is on_device(torch.device("cpu"))


def test_what_torch_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = [100]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: free.append(600))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[-1], 1000))
    assert gpu.free_memory() == (600, 1000)


def test_every_step_is_on_the_engines_device(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread makes it, and between two engines that take turns."""
    engine = gpu_engine(qwen2, monkeypatch)
    visits = Visits([])
    monkeypatch.setattr(torch.cuda, "device", visits)
    current: list[list[torch.device]] = []
    scheduler, plan = engine.scheduler, engine.scheduler.plan

    def watched() -> Any:
        current.append([*visits.current])
        return plan()

    monkeypatch.setattr(scheduler, "plan", watched)
    params = SamplingParams(max_tokens=4, ignore_eos=True)
    thread = threading.Thread(target=lambda: engine.generate(["1"], params))
    thread.start()
    thread.join()
    assert len(current) >= 4
    assert all(inside == [GPU] for inside in current)
    before = len(visits.seen)
    engine.reload_weights(qwen2)
    assert len(visits.seen) > before
    before = len(visits.seen)
    engine.close()
    assert len(visits.seen) > before
    assert visits.current == []
