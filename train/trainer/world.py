"""The processes of a run: one, or as many as torchrun starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gsr_engine.errors import GsrError, InvalidRequest
from train.command import Interrupted, log
from train.trainer.heartbeat import Heartbeat

ResultT = TypeVar("ResultT")

TIMEOUT = timedelta(minutes=30)
"""The run fails if a rank's part of a computation takes longer than this."""
_PATIENCE = timedelta(days=2)
"""How long the ranks wait for one that works alone, e.g. for an evaluation by the engine."""


@dataclass(frozen=True, slots=True)
class World:
    """One process among all processes of the run.

    Attributes:
        rank, size: number of this process, and number of all processes.
        device: what this process computes on.
        saving: process group of the checkpoints, which are written by a thread while training goes
            on. It is a second group because collectives of two threads must not meet in one.
        waiting: process group for what the hosts agree on.
    """

    rank: int
    size: int
    device: torch.device
    saving: dist.ProcessGroup
    waiting: dist.ProcessGroup

    def mesh(self, shard: int) -> DeviceMesh:
        """The mesh over which the state is sharded.

        It has one dimension over all ranks, or two: copies, and the `shard` ranks of a copy.

        Args:
            shard: ranks that share one copy of the state; 0 means all ranks.

        Raises:
            InvalidRequest: the number of ranks is not a multiple of `shard`.
        """
        shard = shard or self.size
        if self.size % shard:
            raise InvalidRequest("shard", f"{shard} does not divide the {self.size} ranks")
        if shard == self.size:
            return init_device_mesh(self.device.type, (shard,), mesh_dim_names=("shard",))
        copies = self.size // shard
        names = ("replicate", "shard")
        return init_device_mesh(self.device.type, (copies, shard), mesh_dim_names=names)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add `values` over all ranks, in place."""
        dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all ranks are here. The host waits, so GPUs stay idle."""
        dist.barrier(self.waiting)

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest value of all ranks in each place, by the hosts."""
        found = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.waiting)
        return found.tolist()

    def first(self, work: Callable[[], ResultT]) -> ResultT:
        """What the first rank's work returns, on every rank.

        Raises:
            GsrError, OSError: the work raised it; every rank does.
        """
        outcome: list[Any] = [None, None]
        if self.rank == 0:
            try:
                outcome[0] = work()
            except (GsrError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.waiting)
        if outcome[1] is not None:
            raise outcome[1]
        return cast(ResultT, outcome[0])


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes of torchrun, or be a world of one, until the end of the block.

    Only the first rank reports progress: on the others the log shows warnings and errors alone.
    """
    cuda = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    store, rank, size = _meet()
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    own: Any = store  # torch's types leave out `clone`, which opens a connection of its own
    heart = Heartbeat(own.clone(), rank, size) if size > 1 else nullcontext()
    named = dist.PrefixStore("default_pg", store)
    dist.init_process_group(backend, store=named, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        saving = dist.new_group(backend="gloo", timeout=TIMEOUT)
        waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
        if rank:
            log.setLevel(logging.WARNING)
        world = World(rank, size, device, saving, waiting)
        stopped: Interrupted | None = None
        with heart:
            try:
                yield world
            except Interrupted as error:  # on all ranks
                stopped = error
            except RuntimeError as error:
                if size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                    raise
                reason = str(error).splitlines()[0]
                raise GsrError(
                    "another rank is gone; the same command goes on from the last checkpoint "
                    f"({reason:.200})"
                ) from None
        world.wait()  # the store ends with the first rank
        if stopped is not None:
            raise stopped
    finally:
        dist.destroy_process_group()


def _meet() -> tuple[dist.Store, int, int]:
    """The store of all ranks, the number of this one, and how many there are."""
    if "RANK" not in os.environ:
        return dist.HashStore(), 0, 1
    try:
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
    except ValueError as error:  # names the variable
        raise InvalidRequest("RANK", f"is set, so this is one of several ranks: {error}") from None
    return store, rank, size
