"""How much memory is free: the system's figure, and the limits of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsr_engine import Engine
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.execution import device
from gsr_engine.execution.host_memory import free_memory

GIB = 2**30
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def system(root: Path, groups: str = "") -> Path:
    """A system with 8 GiB free."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: 99 kB\nMemFree: 5 kB\nMemAvailable: {8 << 20} kB\n"
    )
    (root / "proc/self/cgroup").write_text(groups)
    return root


def group(folder: Path, names: tuple[str, str, str], most: str, used: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{most}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cache}\n")


def test_without_a_group_it_is_the_systems(tmp_path: Path) -> None:
    assert free_memory(system(tmp_path)) == 8 * GIB


def test_a_limit_counts_what_is_used_but_not_caches_of_files(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/job\n")
    group(root / "sys/fs/cgroup/job", V2, str(4 * GIB), 3 * GIB, GIB)
    assert free_memory(root) == 2 * GIB
    group(root / "sys/fs/cgroup/job", V2, "max", 3 * GIB)
    assert free_memory(root) == 8 * GIB
    group(root / "sys/fs/cgroup/job", V2, str(2 * GIB), 3 * GIB)
    assert free_memory(root) == 0


@pytest.mark.parametrize("own", ["", "total_"])
def test_what_was_read_twice_is_given_back_too(own: str, tmp_path: Path) -> None:
    """The files of a checkpoint that was hashed and then loaded count as active."""
    root = system(tmp_path, "0::/job\n")
    group(root / "sys/fs/cgroup/job", V2, str(4 * GIB), 3 * GIB)
    stat = f"{own}inactive_file {GIB // 2}\n{own}active_file {GIB}\nactive_anon {GIB}\n"
    (root / "sys/fs/cgroup/job/memory.stat").write_text(stat)
    assert free_memory(root) == 2.5 * GIB


def test_the_groups_above_bind_too(tmp_path: Path) -> None:
    root = system(tmp_path, "0::/user/job\n")
    group(root / "sys/fs/cgroup/user/job", V2, str(6 * GIB), 0)
    group(root / "sys/fs/cgroup/user", V2, str(5 * GIB), GIB)
    assert free_memory(root) == 4 * GIB


def test_version_1(tmp_path: Path) -> None:
    root = system(tmp_path, "9:name=systemd:/\n5:cpu,memory:/job\n2:cpuset:/other\n0::/\n")
    group(root / "sys/fs/cgroup/memory/job", V1, str(3 * GIB), GIB)
    assert free_memory(root) == 2 * GIB
    group(root / "sys/fs/cgroup/memory/job", V1, str(2**63 - 4096), GIB)
    assert free_memory(root) == 8 * GIB


def test_in_a_container_the_path_is_the_hosts(tmp_path: Path) -> None:
    root = system(tmp_path, "4:memory:/docker/0a1b\n")
    group(root / "sys/fs/cgroup/memory", V1, str(3 * GIB), 0)
    assert free_memory(root) == 3 * GIB


def test_this_machine() -> None:
    assert 0 < free_memory() < 2**50


@pytest.mark.parametrize("free", [GIB // 64, GIB // 32])
def test_pages_take_half_of_it(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "free_memory", lambda: free)
    with Engine.from_pretrained(NANO, dtype="float32", device="cpu") as engine:
        limits = engine.limits
        assert limits.num_pages == free // 2 // limits.page_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_page_that_is_not_written_takes_no_memory(dtype: torch.dtype) -> None:
    model = ModelConfig.from_folder(NANO)
    before = resident_bytes()
    cache = KVCache(model, GIB // 2**16, dtype, torch.device("cpu"))
    for pages in (cache.keys, cache.values):
        assert pages.dtype == dtype
        assert pages.nbytes > GIB // 16
        assert resident_bytes() - before < GIB // 16
        assert not pages[:, :2].any()
        assert pages.data_ptr() % 64 == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
