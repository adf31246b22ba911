"""The processes of a run: one, or as many as torchrun starts."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from gsr_engine.errors import InvalidRequest
from train.command import log

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
        waiting: process group of `wait`.
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


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes of torchrun, or be a world of one, until the end of the block.

    Only the first rank reports progress: on the others the log shows warnings and errors alone.
    """
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
        if dist.get_rank():
            log.setLevel(logging.WARNING)
        yield World(dist.get_rank(), dist.get_world_size(), device, saving, waiting)
    finally:
        dist.destroy_process_group()


class StopSignal:
    """Notes SIGTERM and SIGINT inside its `with` block, instead of dying from them.

    Attributes:
        received: number of the last signal, 0 until one arrives.
    """

    def __init__(self) -> None:
        self.received = 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
