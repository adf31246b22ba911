"""One work, done by this engine and by its peers in turns, and the machine's limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.peers.job import Job, JobResult
from benchmarks.peers.run import PEERS_IN_INT8, PeerProcess
from benchmarks.throughput.floor import product_seconds
from benchmarks.throughput.machine_limits import Limits, measure_limits
from benchmarks.throughput.ours import OurEngines, RefineWork
from benchmarks.throughput.rounds import Rounds
from gsr_engine.config import Quantization


class Peer:
    """A peer whose process starts with its first run; a run is a job of its own.

    The first run also asks for the loss of the texts.

    Args:
        name: of the peer.
        quantization: of its products; None for those in the job's dtype.
        texts: see `Job`.
        job: gives the job; it is called after a layout of ours has run.
        out: folder for its log.
        processes: ends its process.
    """

    def __init__(
        self,
        name: str,
        quantization: str | None,
        texts: Sequence[list[int]],
        job: Callable[[], Job | None],
        out: Path,
        processes: ExitStack,
    ) -> None:
        self._name, self._quantization, self._texts = name, quantization, list(texts)
        self._job, self._out, self._processes = job, out, processes
        self._process: PeerProcess | None = None
        self._runs = 0

    def __call__(self) -> JobResult:
        """Let it do the job once more.

        Raises:
            PeerSkipped: it is not installed, or it failed.
        """
        job = self._job()
        assert job is not None  # noqa: S101  # a layout runs first
        job = replace(job, quantization=self._quantization)
        if self._process is None:
            job = replace(job, texts=self._texts)
            process = PeerProcess(self._name, job.threads, self._out, device=job.device)
            self._process = self._processes.enter_context(process)
        self._runs += 1
        return JobResult(**self._process.ask(job.marked(self._runs)))


def compare(
    work: RefineWork,
    peers: list[str],
    quantization: Quantization,
    sharing_off: bool,
    rounds: Rounds,
    out: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Measure the limits, then all engines in turns; a skipped peer has its reason.

    Args:
        work: to do.
        peers: which of them.
        quantization: what this engine and the peers that can also compute in, besides.
        sharing_off: whether this engine also does it with nothing shared.
        rounds: fresh ones.
        out: folder for the peers' logs.
        progress: called with a line for each run.
    """
    problems = len(work.problems)
    streams = {"candidates": problems * work.k, "refine": problems}
    sizes = sorted({1, work.k, *streams.values()})
    quantised = quantization != "none"
    works = [work, *([replace(work, quantization=quantization)] if quantised else [])]
    with ExitStack() as opened:
        ours = {one.precision: opened.enter_context(OurEngines(one)) for one in works}
        progress("the machine's limits")
        limits = _limits(ours, sizes)
        first, *others = ours
        engines = layouts(ours[first])
        if sharing_off:
            engines["sharing off"] = ours[first].share_nothing
        for precision in others:
            engines |= layouts(ours[precision], f" {precision}")

        def job() -> Job | None:
            return ours[first].job

        for name in peers:
            engines[name] = Peer(name, None, work.texts, job, out, opened)
            if quantised and name in PEERS_IN_INT8:
                folder = out / quantization
                folder.mkdir(exist_ok=True)
                peer = Peer(name, quantization, work.texts, job, folder, opened)
                engines[f"{name} {quantization}"] = peer
        rounds.measure(engines, progress)
        progress("the machine's limits, again")
        again = _limits(ours, sizes)
        limits = {name: limits[name].or_better(again[name]) for name in limits}
    tokens = {
        layout if precision == first else f"{layout} {precision}": (precision, phases)
        for precision, one in ours.items()
        for layout, phases in one.phase_tokens.items()
    }
    return {
        "limits": {name: asdict(one) for name, one in limits.items()},
        "floors": {
            name: product_seconds(phases, limits[precision], streams)
            for name, (precision, phases) in tokens.items()
        },
        "phase_tokens": {name: phases for name, (_, phases) in tokens.items()},
        "results": {name: asdict(rounds.outcome(name)) for name in rounds.runs},
        "runs": {name: [asdict(run) for run in runs] for name, runs in rounds.runs.items()},
        "fastest_product": rounds.fastest,
        "skipped": rounds.skipped,
    }


def layouts(ours: OurEngines, suffix: str = "") -> dict[str, Callable[[], JobResult]]:
    """What does the work in each layout, by name."""
    return {
        f"linear{suffix}": lambda: ours.refine("linear"),
        f"branched{suffix}": lambda: ours.refine("branched"),
    }


def _limits(ours: Mapping[str, OurEngines], sizes: Sequence[int]) -> dict[str, Limits]:
    """Of each precision of the products."""
    return {precision: measure_limits(one.decoder, sizes) for precision, one in ours.items()}
