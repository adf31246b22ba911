"""The processes of a run: one alone, or as many as torchrun starts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gsr_engine.errors import InvalidRequest

TIMEOUT = timedelta(minutes=30)
"""A rank whose part of a computation takes longer than this is lost."""
_PATIENCE = timedelta(days=2)
"""How long ranks wait for one that does something alone, like an evaluation by the engine."""


@dataclass(frozen=True, slots=True)
class World:
    """One process among all of the run.

    Attributes:
        rank, size: its number, and how many there are.
        device: what it computes on.
        saving: a group of its own for checkpoints that are written while the others train:
            collectives of two threads must not meet in one group.
        waiting: the group of `wait`.
    """

    rank: int
    size: int
    device: torch.device
    saving: dist.ProcessGroup
    waiting: dist.ProcessGroup

    def mesh(self, shard: int) -> DeviceMesh:
        """One dimension that shards over all ranks, or two: copies, and the `shard` ranks of each.

        Raises:
            InvalidRequest: the ranks do not divide into such copies.
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
        """The sum over all ranks, in place."""
        dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until all ranks are here; on the host, so that no GPU is kept busy."""
        dist.barrier(self.waiting)


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes of torchrun, or be a world of one; leaves it at the end."""
    cuda = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    try:
        saving = dist.new_group(backend="gloo", timeout=TIMEOUT)
        waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield World(dist.get_rank(), dist.get_world_size(), device, saving, waiting)
    finally:
        dist.destroy_process_group()


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying from them, inside its `with` block.

    Attributes:
        received: the signal, 0 as long as there is none.
    """

    def __init__(self) -> None:
        self.received = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> StopSignal:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
