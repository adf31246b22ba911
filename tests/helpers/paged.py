"""Puts a runner that works as on a GPU into an engine on the CPU: graph shapes, steps ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsr_engine import Engine, EngineConfig
from gsr_engine.execution.device import paged_runner
from gsr_engine.execution.loading import load_parts


def paged_engine(folder: Path, lag: int = 1, **options: Any) -> Engine:
    """An engine over paged attention, `lag` steps ahead of its tokens."""
    config = EngineConfig(**options)
    decoder, tokenizer, gsr = load_parts(folder, config)
    runner = paged_runner(decoder, config, lag, config.cuda_graphs)
    return Engine(decoder, tokenizer, gsr, config, runner=runner)
