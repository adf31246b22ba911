"""Engines whose CPU tensors play those of a GPU, and a `torch.cuda` that says who called it where.

Weights have the layout of a GPU, steps run ahead in the shapes of graphs, and a reload overwrites.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from gsr_engine import Engine, EngineConfig
from gsr_engine.execution.device import paged_runner
from gsr_engine.execution.loading import load_parts
from gsr_engine.model import experts, linear, weights
from gsr_engine.model.decoder import Decoder

GPU = torch.device("cuda", 1)


class GpuDecoder(Decoder):
    """A decoder that says it is on a GPU."""

    @property
    def device(self) -> torch.device:
        return GPU

    @classmethod
    def of(cls, decoder: Decoder) -> GpuDecoder:
        """The same tensors."""
        return cls(**{one.name: getattr(decoder, one.name) for one in fields(decoder)})


def lay_out_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let decoders that are made on the CPU have the layout that a GPU takes."""

    def maker(config: Any, dtype: Any, _: Any, quantization: Any = "none") -> Any:
        return linear.linear_maker(config, dtype, GPU, quantization)

    monkeypatch.setattr(weights, "linear_maker", maker)
    monkeypatch.setattr(experts, "has_cpu_kernels", lambda _: False)


def gpu_engine(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Engine:
    """An engine that takes its decoder for one on a GPU, one step ahead of its tokens."""
    monkeypatch.setattr(torch.cuda, "device", Visits([]))
    options = {"dtype": "float32", "kv_cache_gib": 0.02, **options}
    config = EngineConfig(**options)
    with monkeypatch.context() as making:
        lay_out_as_on_a_gpu(making)
        decoder, *parts = load_parts(folder, config)
        runner = paged_runner(decoder, config, 1, config.cuda_graphs)
    there = GpuDecoder.of(decoder)
    return Engine(there, *parts, config, runner=PlayingRunner(runner, there))


class PlayingRunner:
    """A `Runner` on the CPU whose weights are renewed as if they were on a GPU."""

    def __init__(self, runner: Any, decoder: GpuDecoder) -> None:
        self._runner, self._decoder = runner, decoder
        self.num_pages, self.lag, self.sharing = runner.num_pages, runner.lag, runner.sharing
        self.costs, self.graph_counts = runner.costs, runner.graph_counts
        self.launch, self.reset = runner.launch, runner.reset

    def use(self, renew: weights.Renewal) -> None:
        """The runner's own decoder has the same tensors."""
        assert renew(self._decoder) is self._decoder
        self._runner.use(lambda decoder: decoder)


class Visits:
    """Stands for `torch.cuda.device`: counts in `current` which device a thread has entered."""

    def __init__(self, seen: list[torch.device]) -> None:
        self.current: list[torch.device] = []
        self.seen = seen

    def __call__(self, device: torch.device) -> Visits:
        self._next = device
        return self

    def __enter__(self) -> None:
        self.current.append(self._next)
        self.seen.append(self._next)

    def __exit__(self, *_: object) -> None:
        self.current.pop()
