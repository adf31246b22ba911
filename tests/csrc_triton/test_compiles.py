"""For an sm_90 GPU the kernels compile to the instructions that they were written for.

Products outside the tensor cores and loads of a few bytes are slow, and no other test would notice.
`make kernels-aot` checks that every kernel compiles and that none spills a register.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.kernels.compiled import (
    Case,
    Compiled,
    compile_launch,
    decoding,
    launches_of,
    prefilling,
)
from benchmarks.kernels.elementwise import ElementwiseCase, works
from benchmarks.kernels.experts import ExpertsCase, launching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs the compiler"),
]
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("siblings", [1, 16])
def test_decode_tiles_fit(head_dim: int, siblings: int) -> None:
    compiled = attention_of(launches_of("", decoding(head_dim, siblings, BF16)))
    assert compiled.resident >= 2
    # The lanes of one row use narrow products (HMMA), those of many rows wide ones (HGMMA). Keys
    # and values are loaded 16 bytes at a time, ahead of their use.
    assert compiled.count("HMMA") > 0
    assert (compiled.count("HGMMA") > 0) == (siblings > 1)
    assert loads_ahead(compiled)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_prefill_tiles_fit(head_dim: int) -> None:
    compiled = attention_of(launches_of("", prefilling(head_dim, BF16)))
    assert compiled.count("HGMMA") > 0
    assert compiled.count("HMMA") == 0
    # If products did not run ahead, the compiler would wait (WARPGROUP) after each of them.
    assert compiled.count("WARPGROUP") < compiled.count("HGMMA")
    assert loads_ahead(compiled)


@pytest.mark.parametrize(("tokens", "wide"), [(1, False), (8192, True)])
def test_tiles_of_experts_fit(tokens: int, wide: bool) -> None:
    cases = launches_of("", launching(ExpertsCase(tokens)))
    gated, _ = (launch for _, launch in cases if launch.name == "experts._grouped_linear_kernel")
    compiled = compile_launch(gated)
    assert compiled.resident >= 2
    assert (compiled.count("HGMMA") > 0) == wide
    assert (compiled.count("HMMA") > 0) != wide
    assert compiled.count("WARPGROUP") < max(compiled.count("HGMMA"), 1)
    assert loads_ahead(compiled)


def test_other_kernels_move_16_bytes_at_a_time() -> None:
    cases = launches_of("", decoding(128, 1, BF16))
    for _, _, make in works(ElementwiseCase(64, vocab=0)):
        cases += launches_of("", make("cpu")[1])
    names = {launch.name for _, launch in cases if not is_attention(launch.name)}
    assert names == {
        "activation._gated_activation_kernel",
        "merge._reduce_kernel",
        "norm._rms_norm_kernel",
        "rope._rope_and_cache_kernel",
    }
    for _, launch in cases:
        assert is_attention(launch.name) or ".v4.b32" in compile_launch(launch).ptx, launch


def is_attention(name: str) -> bool:
    return name in ("decode._work_list_kernel", "prefill._prefill_kernel")


def attention_of(cases: list[Case]) -> Compiled:
    (launch,) = [launch for _, launch in cases if is_attention(launch.name)]
    return compile_launch(launch)


def loads_ahead(compiled: Compiled) -> bool:
    return compiled.count("LDGSTS") > 0 and "cp.async.cg.shared.global [ %r" in compiled.ptx


def test_a_launch_is_what_its_tensors_are() -> None:
    (launch,) = [one for _, one in launches_of("", prefilling(80, torch.float32))]
    assert launch.signature["q_ptr"] == "*fp32"
    assert launch.constants["head_dim"] == 80
    assert "q_ptr" in launch.aligned
    assert attention_of([("", launch)]).resident
