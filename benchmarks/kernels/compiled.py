"""What the compiler makes of the kernels for an sm_90 chip, without one.

    python -m benchmarks.kernels.compiled

Registers and shared memory say how many programs a multiprocessor holds at once; a spilled register
or a matrix product without wgmma says that a tile is a bad one before any device time is spent.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

POINTERS = (
    dict.fromkeys(("items", "num_items", "row_ids", "page_table", "offsets"), "*i32")
    | dict.fromkeys(("partial_ids", "cu_seqlens", "own", "span_offsets", "spans"), "*i32")
    | dict.fromkeys(("sizes", "chunks"), "*i32")
    | dict.fromkeys(("positions", "slots", "ids", "top_k", "seeds", "indices", "token_ids"), "*i64")
    | dict.fromkeys(("temperature", "top_p", "min_p", "cos_sin"), "*fp32")
    | dict.fromkeys(("maxima", "sums", "packed", "logprobs"), "*fp32")
    | dict.fromkeys(("partial_out", "partial_lse", "lse"), "*fp32")
)
"""Those that do not point to numbers of the model's dtype."""
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


@dataclass(frozen=True, slots=True)
class Compiled:
    """One kernel, compiled.

    Attributes:
        registers: per thread.
        spilled: bytes of local memory per thread; above zero, registers did not suffice.
        shared: bytes per program.
        resident: programs that one multiprocessor holds at once.
        ptx: the assembly.
        sass: the machine code.
    """

    registers: int
    spilled: int
    shared: int
    resident: int
    ptx: str
    sass: str

    def count(self, instruction: str) -> int:
        """How often an instruction stands in the machine code."""
        return len(re.findall(rf"\s{re.escape(instruction)}\b", self.sass))


def compile_kernel(
    name: str, constants: Mapping[str, Any], dtype: torch.dtype = torch.bfloat16, **options: int
) -> Compiled:
    """Compile `module.function` of csrc_triton as a launch with aligned tensors would.

    Args:
        name: like "decode._reduce_kernel".
        constants: its constexpr arguments.
        dtype: of the model.
        options: num_warps and num_stages.
    """
    import triton  # noqa: PLC0415 (not installed everywhere)
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    module, function = name.split(".")
    kernel = getattr(import_module(f"csrc_triton.{module}"), function)
    signature = {
        argument: "constexpr" if argument in constants else _kind(argument, dtype)
        for argument in kernel.arg_names
    }
    place = kernel.arg_names.index
    # A launch finds pointers and strides to be multiples of 16, and loads 16 bytes at a time.
    aligned = [
        n
        for n in kernel.arg_names
        if n.endswith(("_ptr", "stride", "width", "vocab")) and n not in constants
    ]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(place(n),): value for n, value in constants.items()},
        attrs={(place(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    options = {"num_warps": 4, "num_stages": 3} | options
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, sass = _dump("-res-usage", file.name), _dump("-sass", file.name)
    registers, stack = (int(n) for n in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    shared = made.metadata.shared
    resident = _resident(registers, shared, options["num_warps"])
    return Compiled(registers, stack, shared, resident, made.asm["ptx"], sass)


def _kind(argument: str, dtype: torch.dtype) -> str:
    if argument.endswith("_ptr"):
        return POINTERS.get(argument.removesuffix("_ptr"), f"*{DTYPES[dtype]}")
    return "fp32" if argument in ("eps", "scale") else "i32"


def _dump(option: str, cubin: str) -> str:
    import triton  # noqa: PLC0415

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), option, cubin]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _resident(registers: int, shared: int, num_warps: int) -> int:
    """Programs per multiprocessor of compute capability 9.0 (CUDA C++ Programming Guide, 16.2)."""
    per_warp = -(-registers * 32 // 256) * 256
    return min(65536 // (per_warp * num_warps), 233472 // (shared + 1024), 64 // num_warps, 32)


HEADS = {"num_kv_heads": 4, "group": 7, "page_size": 16}


def compile_decode(head_dim: int, lanes: int, dtype: torch.dtype, tile: Any = None) -> Compiled:
    """The work-list kernel for items of at most so many lanes, with the table's tile or this."""
    tiles = import_module("csrc_triton.tiles")
    block_d = 1 << (head_dim - 1).bit_length()
    tile = tile or tiles.decode_tile(lanes, block_d, dtype)
    one = {"tiles_per_item": 1} if lanes <= tile.block_m else {}  # a launch takes 1 for a constant
    return _compile_attention("decode._work_list_kernel", head_dim, block_d, dtype, tile, one)


def compile_prefill(head_dim: int, dtype: torch.dtype, tile: Any = None) -> Compiled:
    """The prefill kernel, with the table's tile or this."""
    tiles = import_module("csrc_triton.tiles")
    block_d = 1 << (head_dim - 1).bit_length()
    tile = tile or tiles.prefill_tile(block_d, dtype)
    return _compile_attention("prefill._prefill_kernel", head_dim, block_d, dtype, tile, {})


def _compile_attention(
    name: str,
    head_dim: int,
    block_d: int,
    dtype: torch.dtype,
    tile: Any,
    constants: dict[str, int],
) -> Compiled:
    sides = {"block_m": tile.block_m, "block_n": tile.block_n, "block_d": block_d}
    constants = HEADS | {"head_dim": head_dim} | sides | constants
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    return compile_kernel(name, constants, dtype, **options)


def main() -> None:
    """Print what the tiles of the tables, and of the sweeps at D = 128, compile to."""
    from rich.console import Console  # noqa: PLC0415 (the functions above need none)
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="sm_90, bf16")
    for column in ("kernel", "head dim", "tile", *FACTS, *INSTRUCTIONS):
        table.add_column(column)
    for name, head_dim, tile, compiled in _all():
        facts = [str(getattr(compiled, fact)) for fact in FACTS]
        counts = [str(compiled.count(instruction)) for instruction in INSTRUCTIONS]
        table.add_row(name, str(head_dim), "x".join(map(str, tile)), *facts, *counts)
    Console(width=120).print(table)


FACTS = ("registers", "spilled", "shared", "resident")
INSTRUCTIONS = ("HGMMA", "HMMA", "LDGSTS", "BAR")


def _all() -> Iterator[tuple[str, int, Any, Compiled]]:
    from benchmarks.kernels.sweep import DECODE_TILES, PREFILL_TILES  # noqa: PLC0415

    tiles, bf16 = import_module("csrc_triton.tiles"), torch.bfloat16
    decode = [(dim, tiles.decode_tile(lanes, dim, bf16)) for dim in _DIMS for lanes in (16, 64)]
    decode += [(128, tiles.Tile(64, *tile)) for tile in DECODE_TILES]
    prefill = [(dim, tiles.prefill_tile(dim, bf16)) for dim in _DIMS]
    prefill += [(128, tiles.Tile(*tile)) for tile in PREFILL_TILES]
    for dim, tile in decode:
        yield "decode", dim, tile, compile_decode(dim, tile.block_m, bf16, tile)
    for dim, tile in prefill:
        yield "prefill", dim, tile, compile_prefill(dim, bf16, tile)


_DIMS = (64, 128, 256)

if __name__ == "__main__":
    main()
