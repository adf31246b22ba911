"""Every kernel compiles for an sm_90 chip, without one: the interpreter checks no types.

Types that differ between the branches of an `if`, for one, pass there and fail on a GPU. The tiles
of the tables must fit as well: a spilled register, or a product that is not the chip's own, is slow
and nothing else would say so.
"""

import os
import sys

import pytest
import torch

from benchmarks.kernels.compiled import compile_decode, compile_kernel, compile_prefill

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs the compiler"),
]
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


ELEMENTWISE = [
    ("norm._rms_norm_kernel", {"has_residual": True, "block_rows": 1, "block": 4096}),
    ("norm._rms_norm_kernel", {"has_residual": False, "block_rows": 16, "block": 128}),
    ("activation._swiglu_kernel", {"block": 1024}),
    (
        "rope._rope_and_cache_kernel",
        {
            "num_q_heads": 28,
            "num_kv_heads": 4,
            "half": 64,
            "block_q": 32,
            "block_kv": 4,
            "block_half": 64,
        },
    ),
    (
        "decode._reduce_kernel",
        {"num_heads": 28, "head_dim": 128, "few": 4, "many": 16, "block_d": 128},
    ),
]
SAMPLING = [
    ("logprobs._summary_kernel", {"block": 2048}, 4),
    ("logprobs._summary_kernel", {"block": 2048, "temperature_ptr": None}, 4),
    ("logprobs._logprob_kernel", {}, 1),
    ("sampling._pack_kernel", {"block": 2048}, 4),
    ("sampling._draw_kernel", {"block": 2048}, 8),
]


@pytest.mark.parametrize(("name", "constants"), ELEMENTWISE)
def test_compiles_for_sm_90_in_bf16(name, constants):
    compiled = compile_kernel(name, constants, BF16)
    assert compiled.spilled == 0
    assert ".v4.b32" in compiled.ptx  # 16 bytes at a time


@pytest.mark.parametrize(("name", "constants", "num_warps"), SAMPLING)
@pytest.mark.parametrize("kind", [BF16, torch.float32], ids=str)
def test_sampling_compiles(name, constants, num_warps, kind):
    assert compile_kernel(name, constants, kind, num_warps=num_warps).spilled == 0


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("lanes", [16, 64])
def test_decode_tiles_fit(head_dim, lanes):
    compiled = compile_decode(head_dim, lanes, BF16)
    assert compiled.spilled == 0
    assert compiled.resident >= 2
    # One row's lanes take the narrow products, many rows' the wide ones; keys and values come 16
    # bytes at a time, ahead of their use.
    assert compiled.count("HMMA") > 0
    assert (compiled.count("HGMMA") > 0) == (lanes == 64)
    assert loads_ahead(compiled)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_prefill_tiles_fit(head_dim):
    compiled = compile_prefill(head_dim, BF16)
    assert compiled.spilled == 0
    assert compiled.count("HGMMA") > 0
    assert compiled.count("HMMA") == 0
    # Where the compiler takes products one by one, it waits after each.
    assert compiled.count("WARPGROUP") < compiled.count("HGMMA")
    assert loads_ahead(compiled)


def loads_ahead(compiled):
    return compiled.count("LDGSTS") > 0 and "cp.async.cg.shared.global [ %r" in compiled.ptx


@pytest.mark.parametrize("head_dim", [16, 80, 256])
def test_other_head_dims_compile(head_dim):
    assert compile_decode(head_dim, 64, BF16).spilled == 0
    assert compile_prefill(head_dim, BF16).spilled == 0


def test_an_item_of_several_tiles_compiles():
    assert compile_decode(64, 100, BF16).spilled == 0


def test_fp32_compiles():
    assert compile_decode(80, 64, torch.float32).resident
    assert compile_prefill(80, torch.float32).resident
