"""Worker processes of one host: one per GPU where there are any, each restarted on its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from gsr_engine.errors import GsrError
from train.command import log
from train.generation.job import GenerationJob, open_store, opened
from train.generation.store import Store
from train.generation.worker import Report, Tally
from train.signals import interrupt_on_sigterm, shielded

_SPAWN = get_context("spawn")  # CUDA does not survive a fork
RESTARTS = 3
"""Times that each worker is started again after it died."""


PATIENCE = 30.0
"""Seconds that a worker has to end after a signal, before it gets another one."""


class WorkersFailed(GsrError):
    """Workers ended before the store was complete; what is missing is drawn by another run."""


def run_workers(job: GenerationJob, count: int, store: Store, report: Report) -> Tally:
    """Run `count` worker processes until they end; returns what they did together.

    A process that dies (killed, out of memory) is started again, up to `RESTARTS` times. One that
    ends with a `GsrError` is not: it would end so again. Each has an equal share of the budget.

    Raises:
        WorkersFailed: a process failed for good, and the store is not complete.
    """
    if job.budget_tokens is not None:
        job = replace(job, budget_tokens=job.budget_tokens // count)
    workers = [_WorkerProcess(job, _environment(job, index, count)) for index in range(count)]
    try:
        for worker in workers:
            worker.start()
        while running := [worker for worker in workers if worker.process is not None]:
            wait([worker.connection for worker in running if worker.connection], timeout=1.0)
            for worker in running:
                worker.listen()
            report(_sum(workers))
    finally:
        for worker in workers:
            worker.stop()
    total = _sum(workers)
    errors = [worker.error for worker in workers if worker.error]
    if errors and not store.complete():
        raise WorkersFailed(errors[0])
    return total


def _environment(job: GenerationJob, index: int, count: int) -> dict[str, str]:
    """A GPU of its own, or a share of the cores."""
    if job.base_url is not None:
        return {}
    if gpus := torch.cuda.device_count():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(gpu) for gpu in range(gpus)]
        return {"CUDA_VISIBLE_DEVICES": names[index % gpus]}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}


@dataclass(slots=True)
class _WorkerProcess:
    job: GenerationJob
    environment: dict[str, str]
    process: BaseProcess | None = None
    connection: Connection | None = None
    starts: int = 0
    error: str = ""
    tallies: list[Tally] = field(default_factory=list)  # of every start

    def start(self) -> None:
        self.connection, theirs = _SPAWN.Pipe(duplex=False)
        # No daemon: these may have no children, and the grader is one.
        job = self.job
        if job.budget_tokens is not None:  # earlier starts have spent some of it
            spent = sum(tally.tokens for tally in self.tallies)
            job = replace(job, budget_tokens=job.budget_tokens - spent)
        self.process = _SPAWN.Process(target=_serve, args=(job, theirs))
        with _set(self.environment), shielded(signal.SIGINT):  # the parent passes it on, once
            self.process.start()
        theirs.close()
        self.starts += 1
        self.tallies.append(Tally())

    def listen(self) -> None:
        """Take its messages; if it ended, start it again unless that is hopeless."""
        try:
            while self.connection is not None and self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Tally):
                    self.tallies[-1] = message
                else:
                    self.error = message
        except (EOFError, OSError):
            self._ended()

    def _ended(self) -> None:
        if self.process is None:
            return
        self.process.join()
        code, self.process = self.process.exitcode, None
        if code == 0 or self.error:
            return
        what = f"worker {self.environment} ended with {code}"
        if self.starts > RESTARTS:
            self.error = f"{what}, {self.starts} times"
            return
        log.info("%s: started again", what)
        self.tallies[-1].present = self.tallies[-1].running = 0  # its successor counts them
        self.start()

    def stop(self) -> None:
        """End it; it grades what it has drawn, and releases its shards."""
        if self.process is None:
            return
        # Python drops an exception that a signal raises in a finalizer: it is told again.
        for end in (self.process.terminate, self.process.terminate, self.process.kill):
            end()
            self.process.join(PATIENCE)
            if self.process.exitcode is not None:
                return


def _sum(workers: list[_WorkerProcess]) -> Tally:
    total = Tally()
    for tally in (tally for worker in workers for tally in worker.tallies):
        total.add(tally)
    return total


@contextmanager
def _set(environment: dict[str, str]) -> Iterator[None]:
    """What a process started here inherits."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(job: GenerationJob, connection: Connection) -> None:
    """The work of a process: it sends its tally, or its error."""
    interrupt_on_sigterm()
    try:
        with opened(job, open_store(job)) as draw:
            draw(report=connection.send)
    except GsrError as error:
        connection.send(str(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(1) from None
