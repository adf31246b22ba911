"""What `warm` launches: every program of the engine, and those that the sweeps try.

A job is a launch over few rows. It compiles what a launch over many rows needs, because programs
depend on sizes of models, tiles and dtypes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

import csrc_triton
from benchmarks.kernels import sweep
from benchmarks.kernels.decode import DecodeCase, DecodeWorld
from benchmarks.kernels.elementwise import ElementwiseCase, works
from benchmarks.kernels.experts import ExpertsCase, ExpertsWorld
from benchmarks.kernels.prefill import PrefillCase, PrefillWorld
from benchmarks.kernels.worlds import QWEN2_7B, QWEN2_HALF_B, Heads

SWEPT = "tile"
"""How the names of the sweeps' jobs begin. Such a tile may be too large for the chip."""
WarmJob = Callable[[str], object]
"""Launches on a device; it can be sent to another process."""
# Every rule of sampling takes the same programs.
_SAMPLE = "sample"
# Query heads of siblings that read a kv head together, from the narrowest tile to two wide ones.
_LANES = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class _Model:
    """A model whose kernels are compiled in some dtypes; `rows` are those of `ElementwiseCase`."""

    rows: ElementwiseCase
    dtypes: tuple[torch.dtype, ...]


_MODELS = {
    "7b": _Model(ElementwiseCase(64, heads=QWEN2_7B), (torch.bfloat16,)),
    "0.5b": _Model(
        ElementwiseCase(64, 896, 4864, 151_936, QWEN2_HALF_B), (torch.bfloat16, torch.float32)
    ),
}
_TINY = {"tiny": _Model(ElementwiseCase(3, 64, 96, 512, Heads(4, 2, 16)), (torch.float32,))}


def jobs(tiny: bool) -> Iterator[tuple[str, WarmJob]]:
    """Every job with its name, the slow ones of each kind first; the sweeps' come last."""
    for name, model in (_TINY if tiny else _MODELS).items():
        for dtype in model.dtypes:
            label = f"{name} {str(dtype).removeprefix('torch.')}"
            yield from model_jobs(label, replace(model.rows, dtype=dtype))
    if not tiny:
        for tokens in (1, 512):
            yield f"experts, {tokens} tokens", partial(_experts, ExpertsCase(tokens))
        yield from _sweep_jobs()


def model_jobs(label: str, rows: ElementwiseCase) -> Iterator[tuple[str, WarmJob]]:
    """The jobs of a model in one dtype."""
    kernels = [kernel for kernel, _, _ in works(rows)]
    for index, kernel in reversed(list(enumerate(kernels))):  # sampling is last and takes longest
        if kernel != _SAMPLE or _SAMPLE not in kernels[:index]:
            yield f"{label}, {kernel} {index}", partial(_rows, rows, index)
    prefill = PrefillCase(16, context=(16,), heads=rows.heads, dtype=rows.dtype)
    yield f"{label}, prefill", partial(_prefill, prefill, None)
    for lanes in _LANES:
        siblings = max(1, lanes * rows.heads.kv // rows.heads.query)
        case = DecodeCase(1, 16, siblings, 16, share=True, heads=rows.heads, dtype=rows.dtype)
        yield f"{label}, decode, {siblings} siblings", partial(_decode, case, None)
    yield f"{label}, first norm", partial(_first_norm, rows)


def _sweep_jobs() -> Iterator[tuple[str, WarmJob]]:
    for prefill in sweep.PREFILL_TILES:
        yield f"{SWEPT} prefill {prefill}", partial(_prefill, PrefillCase(16), prefill)
    for siblings in (1, 8):
        case = DecodeCase(1, 16, siblings, 16, share=True)
        for decode in sweep.DECODE_TILES:
            name = f"{SWEPT} decode {decode}, {siblings} siblings"
            yield name, partial(_decode, case, decode)


def _decode(case: DecodeCase, tile: sweep.DecodeTile | None, device: str) -> None:
    world = DecodeWorld.of(case, device)
    if tile is None:
        csrc_triton.decode_attention(*world.arguments())
    else:
        sweep.decode_with(world, tile)()


def _prefill(case: PrefillCase, tile: sweep.PrefillTile | None, device: str) -> None:
    world = PrefillWorld.of(case, device)
    if tile is None:
        csrc_triton.prefill_attention(*world.arguments())
    else:
        sweep.prefill_with(world, tile)()


def _rows(case: ElementwiseCase, index: int, device: str) -> None:
    _, _, make = list(works(case))[index]
    _, launch = make(device)
    launch()


def _first_norm(case: ElementwiseCase, device: str) -> None:
    """The norm that has no residual to add."""
    x = torch.zeros(case.rows, case.hidden, dtype=case.dtype, device=device)
    csrc_triton.rms_norm(x, x[0], 1e-6)


def _experts(case: ExpertsCase, device: str) -> None:
    ExpertsWorld.of(case, device).run()
