"""One work on a GPU, by this engine and by its peers, one engine after the other.

Each takes what it takes by default of the GPU's memory, so two of them never fit. Ours ends before
the first peer starts, and each peer before the next.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kernels import measure_limits
from benchmarks.peers.job import Job
from benchmarks.throughput.comparison import Peer, layouts
from benchmarks.throughput.ours import OurEngines, RefineWork
from benchmarks.throughput.rounds import Rounds
from gsr_engine.execution import gpu


def compare_on_gpu(
    work: RefineWork, peers: list[str], rounds: Rounds, out: Path, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the limits, then each engine; a skipped peer has its reason.

    Args:
        work: to do, on its device.
        peers: which of them.
        rounds: fresh ones; all runs of an engine follow each other.
        out: folder for the peers' logs.
        progress: called with a line for each run.
    """
    progress("the GPU's limits")
    limits = measure_limits(work.device)
    job, phase_tokens = _measure_ours(work, rounds, progress)
    gc.collect()  # what refers to itself holds memory, too
    gpu.drop_caches()
    for name in peers:
        with ExitStack() as opened:
            rounds.measure({name: Peer(name, None, (), lambda: job, out, opened)}, progress)
    return {
        "gpu_limits": asdict(limits),
        "limits": {},
        "floors": {},
        "phase_tokens": phase_tokens,
        "results": {name: asdict(rounds.outcome(name)) for name in rounds.runs},
        "runs": {name: [asdict(run) for run in runs] for name, runs in rounds.runs.items()},
        "fastest_product": rounds.fastest,
        "skipped": rounds.skipped,
    }


def _measure_ours(
    work: RefineWork, rounds: Rounds, progress: Callable[[str], None]
) -> tuple[Job | None, dict[str, dict[str, int]]]:
    """Measure this engine; returns the job for the peers, and tokens by layout and phase.

    Nothing of the engine is left when it returns.
    """
    with OurEngines(work) as ours:
        rounds.measure(layouts(ours), progress)
        return ours.job, ours.phase_tokens
