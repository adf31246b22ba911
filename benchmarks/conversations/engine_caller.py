"""The engine, called once for each turn with the whole conversation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from gsr_engine import Engine, GenerateResult, SamplingParams


@dataclass(slots=True)
class EngineCaller:
    """Calls one engine, greedy and at full length, and notes what each call cost.

    Attributes:
        engine: it serves nobody else.
        seconds: of each call so far.
        reused: prompt tokens so far that were found in the prefix cache.
        last_pages: most KV pages that the last call held.
    """

    engine: Engine
    seconds: list[float] = field(default_factory=list)
    reused: int = 0
    last_pages: int = 0

    def call(self, prompt: list[int], tokens: int) -> list[int]:
        """The answer to a prompt."""
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        start = time.perf_counter()
        result: GenerateResult = self.engine.generate([prompt], params)[0]
        self.seconds.append(time.perf_counter() - start)
        if result.error is not None:
            raise RuntimeError(f"a call failed: {result.error}")
        self.reused += result.usage.phase("candidate_prefill").reused_cache
        self.last_pages = result.usage.peak_pages
        return result.completions[0].token_ids

    def pages(self) -> dict[str, int]:
        """Pages that requests hold now, that only the cache holds, and the most ever held."""
        stats: dict[str, Any] = self.engine.stats()
        return {name: stats[f"pages_{name}"] for name in ("used", "cached", "peak")}
