"""Puts a GPU's runner into an engine on the CPU: the same lists, with the kernels' references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsr_engine import Engine, EngineConfig
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.execution.device import paged_runner


def paged_engine(folder: Path, lag: int = 1, **options: Any) -> Engine:
    """An engine over paged attention, `lag` steps ahead of its tokens."""
    engine = Engine.from_pretrained(folder, **options)
    steps = engine._steps
    assert steps
    decoder = steps.runner.decoder
    cache = KVCache(decoder.config, engine.limits.num_pages, decoder.dtype, decoder.device)
    steps.runner = paged_runner(decoder, EngineConfig(**options), cache, lag)
    return engine
