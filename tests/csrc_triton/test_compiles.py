"""Every kernel compiles for an sm_90 chip, without one: the interpreter checks no types.

Types that differ between the branches of an `if`, for one, pass there and fail on a GPU.
"""

import os
import sys

import pytest
import torch

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="triton compiles on Linux"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="needs the compiler"),
]

HEADS = {"num_kv_heads": 4, "head_dim": 64, "block_d": 64}
TILED = HEADS | {"group": 7, "page_size": 16}
INTEGERS = ("items", "num_items", "row_ids", "page_table", "offsets", "partial_ids", "cu_seqlens")
KINDS = (
    dict.fromkeys((f"{name}_ptr" for name in (*INTEGERS, "own", "span_offsets", "spans")), "*i32")
    | dict.fromkeys(("positions_ptr", "slots_ptr", "ids_ptr", "top_k_ptr"), "*i64")
    | dict.fromkeys(("seeds_ptr", "indices_ptr"), "*i64")
    | dict.fromkeys(("temperature_ptr", "top_p_ptr", "min_p_ptr", "cos_sin_ptr"), "*fp32")
    | dict.fromkeys(("partial_out_ptr", "partial_lse_ptr", "lse_ptr"), "*fp32")
    | dict.fromkeys(("eps", "scale"), "fp32")
)


def constants_of(name):
    from csrc_triton.tiles import MAX_LANES, tile_shape

    sides = tile_shape(MAX_LANES, 64, torch.bfloat16)._asdict()
    tile = TILED | {side: sides[side] for side in ("block_m", "block_n")}
    return {
        "norm._rms_norm_kernel": {"has_residual": True, "block": 1024},
        "activation._swiglu_kernel": {"block": 1024},
        "rope._rope_and_cache_kernel": {
            "num_q_heads": 28,
            "num_kv_heads": 4,
            "half": 64,
            "block_q": 32,
            "block_kv": 4,
            "block_half": 64,
        },
        "decode._work_list_kernel": tile,
        "decode._reduce_kernel": {"head_dim": 128, "block_d": 128},
        "prefill._prefill_kernel": tile,
        "sampling._sample_kernel": {"block": 2048},
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "norm._rms_norm_kernel",
        "activation._swiglu_kernel",
        "rope._rope_and_cache_kernel",
        "decode._work_list_kernel",
        "decode._reduce_kernel",
        "prefill._prefill_kernel",
        "sampling._sample_kernel",
    ],
)
def test_compiles_for_sm_90_in_bf16(name, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    from importlib import import_module

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    module, function = name.split(".")
    kernel = getattr(import_module(f"csrc_triton.{module}"), function)
    constants = constants_of(name)
    signature = {
        argument: "constexpr"
        if argument in constants
        else KINDS.get(argument, "*bf16" if argument.endswith("_ptr") else "i32")
        for argument in kernel.arg_names
    }
    at = {(kernel.arg_names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=at)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]
