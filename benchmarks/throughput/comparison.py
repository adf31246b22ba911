"""One work, done by this engine and by its peers in turns, and the machine's limits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.job import JobResult
from benchmarks.peers.run import PeerProcess
from benchmarks.throughput.floor import product_seconds
from benchmarks.throughput.machine_limits import measure_limits
from benchmarks.throughput.ours import OurEngines, RefineWork
from benchmarks.throughput.rounds import Rounds


class _Peer:
    """A peer whose process starts with its first run; a run is a job of its own."""

    def __init__(self, name: str, ours: OurEngines, out: Path, processes: ExitStack) -> None:
        self._name, self._ours, self._out, self._processes = name, ours, out, processes
        self._process: PeerProcess | None = None
        self._runs = 0

    def __call__(self) -> JobResult:
        job = self._ours.job
        assert job is not None  # noqa: S101  # a layout runs first
        if self._process is None:
            process = PeerProcess(self._name, job.threads, self._out)
            self._process = self._processes.enter_context(process)
        self._runs += 1
        return JobResult(**self._process.ask(job.marked(self._runs)))


def compare(
    work: RefineWork,
    peers: list[str],
    sharing_off: bool,
    rounds: Rounds,
    out: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the limits, then all engines in turns; a skipped peer has its reason.

    Args:
        work: to do.
        peers: which of them.
        sharing_off: whether this engine also does it with nothing shared.
        rounds: fresh ones.
        out: folder for the peers' logs.
        progress: called with a line for each run.
    """
    problems = len(work.problems)
    streams = {"candidates": problems * work.k, "refine": problems}
    with ExitStack() as opened:
        ours = opened.enter_context(OurEngines(work))
        sizes = sorted({1, work.k, *streams.values()})
        progress("the machine's limits")
        limits = measure_limits(ours.decoder, sizes)
        engines: dict[str, Callable[[], JobResult]] = {
            "linear": lambda: ours.refine("linear"),
            "branched": lambda: ours.refine("branched"),
        }
        if sharing_off:
            engines["sharing off"] = ours.share_nothing
        engines |= {name: _Peer(name, ours, out, opened) for name in peers}
        rounds.measure(engines, progress)
        progress("the machine's limits, again")
        limits = limits.or_better(measure_limits(ours.decoder, sizes))
    floors = {
        layout: product_seconds(tokens, limits, streams)
        for layout, tokens in ours.phase_tokens.items()
    }
    return {
        "limits": asdict(limits),
        "floors": floors,
        "phase_tokens": ours.phase_tokens,
        "results": {name: asdict(rounds.outcome(name)) for name in rounds.runs},
        "runs": {name: [asdict(run) for run in runs] for name, runs in rounds.runs.items()},
        "fastest_product": rounds.fastest,
        "skipped": rounds.skipped,
    }
