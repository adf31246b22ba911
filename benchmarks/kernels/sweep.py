"""Which split lengths and tiles are best: the figures behind `csrc_triton/tiles.py`.

Without a GPU the references run, which have no tiles, so that the sweep itself can be tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import product
from typing import Any

from torch import Tensor

import csrc_triton
from benchmarks.kernels import decode, prefill
from benchmarks.kernels.decode import GROUPS, DecodeCase, DecodeWorld, time_decode
from benchmarks.kernels.prefill import PrefillCase, PrefillWorld, time_prefill
from benchmarks.kernels.rows import Emit, Row, collect, ignore
from benchmarks.kernels.worlds import QWEN2_HALF_B, relative_error
from csrc_triton.tiling import Tiling

SPLITS = (128, 256, 512, 1024, 2048)
DECODE_CASES = (
    DecodeCase(64, 4096),
    DecodeCase(256, 1024),
    DecodeCase(1, 32768),
    replace(GROUPS, share=True),
    DecodeCase(256, 4096, heads=QWEN2_HALF_B),
)
DecodeTile = tuple[int, int, int]
"""(block_n, num_warps, num_stages); block_m follows the case."""
DECODE_TILES: tuple[DecodeTile, ...] = (
    (32, 4, 3),
    (32, 4, 4),
    (32, 4, 5),
    (64, 4, 2),
    (64, 4, 3),
    (64, 4, 4),
    (128, 4, 2),
    (128, 4, 3),
    (64, 8, 3),
    (128, 8, 2),
)
PREFILL_CASES = (
    PrefillCase(2048),
    PrefillCase(8192),
    PrefillCase(512, segments=16),
    PrefillCase(512, segments=4, context=(4096, *[512] * 8)),
    PrefillCase(8192, heads=QWEN2_HALF_B),
)
PrefillTile = tuple[int, int, int, int]
"""(block_m, block_n, num_warps, num_stages)."""
PREFILL_TILES: tuple[PrefillTile, ...] = (
    (128, 64, 8, 2),
    (128, 64, 8, 3),
    (128, 64, 8, 4),
    (128, 128, 8, 2),
    (128, 128, 8, 3),
    (128, 32, 8, 4),
    (64, 64, 4, 2),
    (64, 64, 4, 3),
)


def sweep_splits(
    device: str,
    quick: bool = False,
    cases: Sequence[DecodeCase] | None = None,
    emit: Emit = ignore,
) -> list[Row]:
    """Time decode attention with spans cut at several lengths."""
    cases = cases or (decode.TINY if device == "cpu" else DECODE_CASES)
    splits = SPLITS[1:4] if quick else SPLITS
    cut = [replace(case, split=split) for case, split in product(cases, splits)]

    def measure(case: DecodeCase) -> Row:
        world = DecodeWorld.of(case, device)
        return time_decode(case, device, partial(csrc_triton.decode_attention, *world.arguments()))

    return collect("split", [(str(case), case) for case in cut], measure, emit)


def sweep_decode_tiles(
    device: str,
    quick: bool = False,
    cases: Sequence[DecodeCase] | None = None,
    tiles: Sequence[DecodeTile] = DECODE_TILES,
    emit: Emit = ignore,
) -> list[Row]:
    """Time decode attention with several tiles; `error` is relative to the tile in use."""
    cases = cases or (decode.TINY if device == "cpu" else DECODE_CASES[: 2 if quick else None])

    def measure(at: tuple[DecodeCase, DecodeTile]) -> Row:
        case, tile = at
        world = DecodeWorld.of(case, device)
        return _compare(
            partial(csrc_triton.decode_attention, *world.arguments()),
            decode_with(world, tile) if device != "cpu" else None,
            lambda run: time_decode(case, device, run),
        )

    return collect("decode tile", _named(cases, tiles), measure, emit)


def sweep_prefill_tiles(
    device: str,
    quick: bool = False,
    cases: Sequence[PrefillCase] | None = None,
    tiles: Sequence[PrefillTile] = PREFILL_TILES,
    emit: Emit = ignore,
) -> list[Row]:
    """Time prefill attention with several tiles; `error` is relative to the tile in use."""
    cases = cases or (prefill.TINY if device == "cpu" else PREFILL_CASES[: 2 if quick else None])

    def measure(at: tuple[PrefillCase, PrefillTile]) -> Row:
        case, tile = at
        world = PrefillWorld.of(case, device)
        return _compare(
            partial(csrc_triton.prefill_attention, *world.arguments()),
            prefill_with(world, tile) if device != "cpu" else None,
            lambda run: time_prefill(case, device, run),
        )

    return collect("prefill tile", _named(cases, tiles), measure, emit)


def _named(cases: Sequence[Any], tiles: Sequence[Any]) -> list[tuple[str, Any]]:
    pairs = product(cases, tiles)
    return [(f"{case}, tile {'x'.join(map(str, tile))}", (case, tile)) for case, tile in pairs]


def _compare(
    by_table: Callable[[], Tensor],
    by_tile: Callable[[], Tensor] | None,
    clock: Callable[[Callable[[], Tensor]], Row],
) -> Row:
    run = by_tile or by_table
    return clock(run) | {"error": relative_error(run(), by_table())}


def decode_with(world: DecodeWorld, choice: DecodeTile) -> Callable[[], Tensor]:
    """Decode attention with a tile, on a GPU."""
    kernels, tiles = import_module("csrc_triton.decode"), import_module("csrc_triton.tiles")
    _, heads, dim = world.q.shape
    lanes = world.work.max_rows_per_item * heads // world.cache.keys.shape[2]
    tile = tiles.Tile(tiles.decode_tile(lanes, dim, world.q.dtype, world.q.device).block_m, *choice)

    def run() -> Tensor:
        partials = kernels.decode_attention_partials(*world.arguments(), tile=tile)
        merged: Tensor = kernels.reduce_partials(*partials, world.work, world.q.dtype)
        return merged

    return run


def prefill_with(world: PrefillWorld, choice: PrefillTile) -> Callable[[], Tensor]:
    """Prefill attention with a tile, on a GPU."""
    kernels, tiles = import_module("csrc_triton.prefill"), import_module("csrc_triton.tiles")
    tile, heads, kv_heads = tiles.Tile(*choice), world.q.shape[1], world.cache.keys.shape[2]
    # Cut before: a plan that is cut at a launch waits for the GPU, which no capture may.
    tiling = Tiling(heads // kv_heads, kv_heads, tile.block_m)
    cut = replace(world, plan=replace(world.plan, tiles=world.plan.tiled(tiling)))
    return partial(kernels.prefill_attention, *cut.arguments(), tile=tile)
