"""What the compiler makes of the kernels for an sm_90 chip, on a machine without one.

    make kernels-aot                                 # every kernel, as the engine launches it
    python -m benchmarks.kernels.compiled --sweep    # the tiles that `--only sweep` tries

Registers and shared memory decide how many programs a multiprocessor holds at once. A spilled
register, or a matrix product without wgmma (HGMMA), shows a bad tile before any device time is
spent. LDGSTS is the machine instruction of cp.async.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import csrc_triton
from benchmarks.kernels.decode import DecodeCase, DecodeWorld
from benchmarks.kernels.elementwise import ElementwiseCase, works
from benchmarks.kernels.experts import CASES as EXPERTS
from benchmarks.kernels.experts import launching
from benchmarks.kernels.launches import Launch, recorded
from benchmarks.kernels.prefill import PrefillCase, PrefillWorld
from benchmarks.kernels.worlds import Heads
from train.command import run_command

HEAD_DIMS = (64, 80, 96, 128, 256)
DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
SIBLINGS = (1, 4, 16)
"""Rows that share a span, of a model with 7 query heads for each kv head: 7, 28 and 112 lanes."""
WINDOW = 4096
FACTS = ("registers", "spilled", "shared", "resident")
INSTRUCTIONS = ("HGMMA", "HMMA", "LDGSTS", "BAR")


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
        """How often an instruction occurs in the machine code."""
        return len(re.findall(rf"\s{re.escape(instruction)}\b", self.sass))


def compile_launch(launch: Launch) -> Compiled:
    """Compile a kernel for its launch."""
    import triton  # noqa: PLC0415 (not installed everywhere)
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    module, function = launch.name.split(".")
    kernel = getattr(import_module(f"csrc_triton.{module}"), function)
    place = kernel.arg_names.index
    source = ASTSource(
        fn=kernel,
        signature=dict(launch.signature),
        constexprs={(place(name),): value for name, value in launch.constants.items()},
        attrs={(place(name),): [["tt.divisibility", 16]] for name in launch.aligned},
    )
    options = dict(launch.options)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, sass = _dump("-res-usage", file.name), _dump("-sass", file.name)
    registers, stack = (int(n) for n in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    shared = made.metadata.shared
    resident = _resident(registers, shared, options["num_warps"])
    return Compiled(registers, stack, shared, resident, made.asm["ptx"], sass)


def _dump(option: str, cubin: str) -> str:
    import triton  # noqa: PLC0415

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), option, cubin]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _resident(registers: int, shared: int, num_warps: int) -> int:
    """Programs per multiprocessor of compute capability 9.0 (CUDA C++ Programming Guide, 16.2)."""
    per_warp = -(-registers * 32 // 256) * 256
    return min(65536 // (per_warp * num_warps), 233472 // (shared + 1024), 64 // num_warps, 32)


Case = tuple[str, Launch]
"""The purpose of a launch in words, and the launch."""


def shipped(dtypes: Sequence[torch.dtype] = tuple(DTYPES)) -> list[Case]:
    """Every kernel: each dtype, each head dim, narrow and wide items, with and without a window.

    Windows are compiled for 16 bits only: fp32 serves comparisons, and there they may spill.
    """
    cases: list[Case] = []
    for dtype in dtypes:
        dtype_name = DTYPES[dtype]
        for dim in HEAD_DIMS:
            for window in (None,) if dtype == torch.float32 else (None, WINDOW):
                label = f"{dtype_name}, D {dim}" + (", window" if window else "")
                for siblings in SIBLINGS:
                    run = decoding(dim, siblings, dtype, window)
                    cases += launches_of(f"{label}, {siblings} rows share", run)
                cases += launches_of(label, prefilling(dim, dtype, window))
        for experts in EXPERTS:
            run = launching(replace(experts, dtype=dtype))
            cases += launches_of(f"{dtype_name}, experts {experts}", run)
        rows = [ElementwiseCase(64, vocab=0, heads=Heads(28, 4, dim)) for dim in HEAD_DIMS]
        for case in (*rows, ElementwiseCase(64)):
            for _, name, make in works(replace(case, dtype=dtype)):
                cases += launches_of(f"{dtype_name}, {name}", make("cpu")[1])
    return distinct(cases)


def distinct(cases: Sequence[Case]) -> list[Case]:
    """Each program once, under its first label."""
    found: list[Case] = []
    for label, launch in cases:
        if all(launch != other for _, other in found):
            found.append((label, launch))
    return found


def launches_of(label: str, run: Callable[[], object]) -> list[Case]:
    """What a call of csrc_triton launches."""
    with recorded() as launches:
        run()
    return [(label, launch) for launch in launches]


def decoding(
    dim: int, siblings: int, dtype: torch.dtype, window: int | None = None, tile: Any = None
) -> Callable[[], object]:
    """Decode attention of siblings over the problem that they share, and the merging.

    With a window there are sinks, too, as in GPT-OSS.
    """
    heads = Heads(28, 4, dim)
    case = DecodeCase(1, own=16, siblings=siblings, problem=16, share=True, heads=heads)
    world = DecodeWorld.of(replace(case, dtype=dtype), "cpu")
    if window is not None:
        positions, sinks = torch.zeros(siblings, dtype=torch.int64), torch.zeros(heads.query)
        rest: dict[str, Any] = {"window": window, "positions": positions, "sinks": sinks}
        return partial(csrc_triton.decode_attention, *world.arguments(), **rest)
    if tile is None:
        return partial(csrc_triton.decode_attention, *world.arguments())
    kernels = import_module("csrc_triton.decode")
    return partial(kernels.decode_attention_partials, *world.arguments(), tile=tile)


def prefilling(
    dim: int, dtype: torch.dtype, window: int | None = None, tile: Any = None
) -> Callable[[], object]:
    """Prefill attention of a chunk behind a context; with a window there are sinks, too."""
    heads = Heads(28, 4, dim)
    case = PrefillCase(16, context=(16,), heads=heads, dtype=dtype)
    arguments = PrefillWorld.of(case, "cpu").arguments()
    if window is not None:
        rest: dict[str, Any] = {"window": window, "sinks": torch.zeros(heads.query)}
        return partial(csrc_triton.prefill_attention, *arguments, **rest)
    if tile is None:
        return partial(csrc_triton.prefill_attention, *arguments)
    return partial(import_module("csrc_triton.prefill").prefill_attention, *arguments, tile=tile)


def swept() -> Iterator[Case]:
    """The tiles that the sweeps try, for bf16 and D = 128."""
    from benchmarks.kernels.sweep import DECODE_TILES, PREFILL_TILES  # noqa: PLC0415

    tiles, bf16 = import_module("csrc_triton.tiles"), torch.bfloat16
    for siblings, choice in product(SIBLINGS[:2], DECODE_TILES):
        block_m = tiles.decode_tile(7 * siblings, 128, bf16).block_m
        tile = tiles.Tile(block_m, *choice)
        yield from launches_of("x".join(map(str, tile)), decoding(128, siblings, bf16, tile=tile))
    for choice in PREFILL_TILES:
        run = prefilling(128, bf16, tile=tiles.Tile(*choice))
        yield from launches_of("x".join(map(str, choice)), run)


def _facts(case: Case) -> list[str]:
    label, launch = case
    compiled = compile_launch(launch)
    facts = [str(getattr(compiled, fact)) for fact in FACTS]
    counts = [str(compiled.count(instruction)) for instruction in INSTRUCTIONS]
    return [launch.name, label, *facts, *counts]


def main(
    sweep: Annotated[bool, typer.Option(help="The tiles of the sweeps instead.")] = False,
) -> None:
    """Compile, print the result, and exit 1 if a register spills."""
    cases = list(swept()) if sweep else shipped()
    table = Table(title="sm_90")
    for column in ("kernel", "launched for", *FACTS, *INSTRUCTIONS):
        table.add_column(column)
    spilled = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for facts in pool.map(_facts, cases):
            table.add_row(*facts)
            if facts[3] != "0":
                spilled.append(f"{facts[0]} ({facts[1]})")
    Console(width=140).print(table)
    if spilled and not sweep:
        raise SystemExit(f"these spill registers: {', '.join(spilled)}")


if __name__ == "__main__":
    run_command("compiled", lambda: typer.run(main))
