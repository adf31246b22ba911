"""What the compiler makes of the kernels for several chips, on a machine without any.

    make kernels-aot                                 # every kernel, as the engine launches it
    python -m benchmarks.kernels.compiled --chip sm_90
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
from unittest.mock import patch

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
from gsr_engine.errors import check_choice
from train.command import run_command

HEAD_DIMS = (64, 80, 96, 128, 256)
ELSEWHERE = (64, 128, 256)
"""Head dims that are compiled for other chips than an H100: one for each row of their tables."""
DTYPES = {torch.bfloat16: "bf16", torch.float32: "fp32"}
"""Those that the engine computes in: `gsr_engine.config.SUPPORTED_DTYPES`."""
SIBLINGS = (1, 4, 16)
"""Rows that share a span, of a model with 7 query heads for each kv head: 7, 28 and 112 lanes."""
WINDOW = 4096
FACTS = ("registers", "spilled", "shared", "resident")
INSTRUCTIONS = ("HGMMA", "HMMA", "LDGSTS", "BAR")


@dataclass(frozen=True, slots=True)
class Chip:
    """A kind of chips, by its compute capability (CUDA C++ Programming Guide, table 16.2).

    Attributes:
        capability: e.g. (9, 0).
        shared: bytes of shared memory that a program may have; a multiprocessor has 1 KiB more.
        warps: that are resident on one multiprocessor at once.
        programs: likewise.
    """

    capability: tuple[int, int]
    shared: int
    warps: int
    programs: int


CHIPS = {
    "sm_80": Chip((8, 0), 166_912, 64, 32),
    "sm_89": Chip((8, 9), 101_376, 48, 24),
    "sm_90": Chip((9, 0), 232_448, 64, 32),
    "sm_100": Chip((10, 0), 232_448, 64, 32),
}
H100 = CHIPS["sm_90"]


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


def compile_launch(launch: Launch, chip: Chip = H100) -> Compiled:
    """Compile a kernel for its launch on a chip."""
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
    major, minor = chip.capability
    made = triton.compile(source, target=GPUTarget("cuda", 10 * major + minor, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, sass = _dump("-res-usage", file.name), _dump("-sass", file.name)
    registers, stack = (int(n) for n in re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0])
    shared = made.metadata.shared
    resident = _resident(registers, shared, options["num_warps"], chip)
    return Compiled(registers, stack, shared, resident, made.asm["ptx"], sass)


def _dump(option: str, cubin: str) -> str:
    import triton  # noqa: PLC0415

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), option, cubin]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def _resident(registers: int, shared: int, num_warps: int, chip: Chip) -> int:
    """Programs that one multiprocessor holds at once."""
    per_warp = -(-registers * 32 // 256) * 256
    return min(
        65536 // (per_warp * num_warps),
        (chip.shared + 1024) // (shared + 1024),
        chip.warps // num_warps,
        chip.programs,
    )


Case = tuple[str, Launch]
"""The purpose of a launch in words, and the launch."""


def shipped(
    dtypes: Sequence[torch.dtype] = tuple(DTYPES),
    head_dims: Sequence[int] = HEAD_DIMS,
    sibling_counts: Sequence[int] = SIBLINGS,
) -> list[Case]:
    """Every kernel: each dtype, each head dim, narrow and wide items, with and without a window.

    Windows are compiled for 16 bits only: fp32 serves comparisons, and there they may spill.
    """
    cases: list[Case] = []
    for dtype in dtypes:
        dtype_name = DTYPES[dtype]
        for dim in head_dims:
            for window in (None,) if dtype == torch.float32 else (None, WINDOW):
                label = f"{dtype_name}, D {dim}" + (", window" if window else "")
                for siblings in sibling_counts:
                    run = decoding(dim, siblings, dtype, window)
                    cases += launches_of(f"{label}, {siblings} rows share", run)
                cases += launches_of(label, prefilling(dim, dtype, window))
        for experts in EXPERTS:
            run = launching(replace(experts, dtype=dtype))
            cases += launches_of(f"{dtype_name}, experts {experts}", run)
        rows = [ElementwiseCase(64, vocab=0, heads=Heads(28, 4, dim)) for dim in head_dims]
        for case in (*rows, ElementwiseCase(64)):
            for _, name, make in works(replace(case, dtype=dtype)):
                cases += launches_of(f"{dtype_name}, {name}", make("cpu")[1])
    return distinct(cases)


def shipped_for(chip: Chip) -> list[Case]:
    """As `shipped`, with the tiles that the engine takes on a chip.

    For another chip than an H100 it is every kernel, but in bf16 only, and fewer shapes of it.
    """
    tiles = import_module("csrc_triton.tiles")
    with patch.object(tiles, "capability", lambda _: chip.capability):
        if chip is H100:
            return shipped()
        return shipped((torch.bfloat16,), ELSEWHERE, SIBLINGS[::2])


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
        block_m = tiles.decode_tile(7 * siblings, 128, bf16, torch.device("cpu")).block_m
        tile = tiles.Tile(block_m, *choice)
        yield from launches_of("x".join(map(str, tile)), decoding(128, siblings, bf16, tile=tile))
    for choice in PREFILL_TILES:
        run = prefilling(128, bf16, tile=tiles.Tile(*choice))
        yield from launches_of("x".join(map(str, choice)), run)


def _facts(name: str, case: Case) -> list[str]:
    label, launch = case
    compiled = compile_launch(launch, CHIPS[name])
    facts = [str(getattr(compiled, fact)) for fact in FACTS]
    counts = [str(compiled.count(instruction)) for instruction in INSTRUCTIONS]
    return [launch.name, label, *facts, *counts]


def main(
    chip: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(CHIPS)}; all of them.")
    ] = None,
    sweep: Annotated[bool, typer.Option(help="The tiles of the sweeps, for an H100.")] = False,
) -> None:
    """Compile, print the result, and exit 1 if a register spills or a program does not fit."""
    names = ["sm_90"] if sweep else chip or list(CHIPS)
    for name in names:
        check_choice("chip", name, tuple(CHIPS))
    refused: list[str] = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for name in names:
            table = Table(title=name)
            for column in ("kernel", "launched for", *FACTS, *INSTRUCTIONS):
                table.add_column(column)
            cases = list(swept()) if sweep else shipped_for(CHIPS[name])
            for facts in pool.map(partial(_facts, name), cases):
                table.add_row(*facts)
                spilled, shared = int(facts[3]), int(facts[4])
                if spilled or shared > CHIPS[name].shared:
                    refused.append(f"{name}: {facts[0]} ({facts[1]})")
            Console(width=140).print(table)
    if refused and not sweep:
        raise SystemExit(f"these spill registers, or are too large: {', '.join(refused)}")


if __name__ == "__main__":
    run_command("compiled", lambda: typer.run(main))
