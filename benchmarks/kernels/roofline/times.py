"""From counted steps to seconds: the floor, what the launches can reach, and where the gap is.

The floor of a step is the larger of two times at the data sheet's limits: that of the bytes that
nobody can avoid, and that of the products of real rows. What launches reach is a sum over them,
because each waits for the one before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from benchmarks.kernels.roofline.chips import (
    COPY,
    DECODE,
    EAGER,
    HOST_ROW,
    HOST_STEP,
    LAUNCH,
    PREFILL,
    PRODUCT,
    PROGRAM,
    Chip,
)
from benchmarks.kernels.roofline.operations import Kind, Operation
from benchmarks.kernels.roofline.simulation import Step

_BANDWIDTH: dict[Kind, float] = {"decode": DECODE.value}
_FLOPS: dict[Kind, float] = {"prefill": PREFILL.value}


@dataclass(slots=True)
class Seconds:
    """The parts of some steps' time, in seconds; they add up to what the launches reach.

    Attributes:
        floor: see the module.
        shares: products and attention at the shares of the limits that they reach, instead.
        padding: of rows to those of a graph, and of tiles.
        partials: partial results, written, read and merged.
        elementwise: norms, rotations, gates, draws, copies.
        launches: the gaps between launches.
        host: what the device waits for the host.
    """

    floor: float = 0.0
    shares: float = 0.0
    padding: float = 0.0
    partials: float = 0.0
    elementwise: float = 0.0
    launches: float = 0.0
    host: float = 0.0

    @property
    def reached(self) -> float:
        """All of it."""
        total: float = sum(getattr(self, one.name) for one in fields(self))
        return total

    def add(self, other: Seconds, weight: float = 1.0) -> None:
        """Add those of other steps."""
        for one in fields(self):
            total = getattr(self, one.name) + weight * getattr(other, one.name)
            setattr(self, one.name, total)


@dataclass(slots=True)
class Phase:
    """Sums over the steps of a phase.

    Attributes:
        seconds: of all its steps.
        steps: how many.
        mixed: how many of them both decode and prefill.
        tokens: computed.
        drawn: tokens.
        in_graph: launches by graphs.
        eager: other launches.
        programs: of this project's kernels.
        gigabytes: moved by all launches.
        least_gigabytes: of the floor.
        teraflops: of the floor.
    """

    seconds: Seconds
    steps: float = 0.0
    mixed: float = 0.0
    tokens: float = 0.0
    drawn: float = 0.0
    in_graph: float = 0.0
    eager: float = 0.0
    programs: float = 0.0
    gigabytes: float = 0.0
    least_gigabytes: float = 0.0
    teraflops: float = 0.0

    def add(self, step: Step, chip: Chip) -> None:
        """Add a counted step, as often as it stands for one."""
        weight, operations = step.weight, step.operations
        self.seconds.add(seconds_of(step, chip), weight)
        self.steps += weight
        self.mixed += weight * step.mixed
        self.tokens += weight * step.tokens
        self.drawn += weight * step.drawn
        for one, count in operations.items():
            times = weight * count
            if one.in_graph:
                self.in_graph += times
            else:
                self.eager += times
            self.programs += times * one.programs
            self.gigabytes += 1e-9 * times * one.moved
            self.least_gigabytes += 1e-9 * times * one.least_bytes
            self.teraflops += 1e-12 * times * one.least_flops


def by_phase(steps: Iterable[Step], chip: Chip) -> dict[str, Phase]:
    """The sums of each phase, in the order in which they began."""
    phases: dict[str, Phase] = {}
    for step in steps:
        phases.setdefault(step.phase, Phase(Seconds())).add(step, chip)
    return phases


def seconds_of(step: Step, chip: Chip) -> Seconds:
    """The parts of one step's time."""
    parts = Seconds()
    least_bytes = least_flops = eager = launches = 0
    for one, count in step.operations.items():
        least_bytes += count * one.least_bytes
        least_flops += count * one.least_flops
        launches += count
        eager += 0 if one.in_graph else count
        parts.add(_device_seconds(one, chip), count)
    parts.launches = launches * LAUNCH.value
    parts.floor = max(least_bytes / chip.bandwidth, least_flops / chip.flops)
    parts.shares -= parts.floor
    host = HOST_STEP.value + step.drawn * HOST_ROW.value + eager * EAGER.value
    parts.host = max(0.0, host - parts.reached)
    return parts


def _device_seconds(one: Operation, chip: Chip) -> Seconds:
    """A launch without its gap; here `shares` holds all of its unpadded time."""
    if one.kind == "other":
        return Seconds(elementwise=_time(one, chip, one.moved, 0))
    plain = one.moved - one.partials
    real = _time(one, chip, plain, one.least_flops)
    padded = _time(one, chip, plain, one.flops)
    whole = _time(one, chip, one.moved, one.flops)
    return Seconds(shares=real, padding=padded - real, partials=whole - padded)


def _time(one: Operation, chip: Chip, moved: int, flops: int) -> float:
    bandwidth = chip.bandwidth * _BANDWIDTH.get(one.kind, COPY.value)
    if one.kind == "decode":  # a few programs cannot ask for all of it
        bandwidth = min(bandwidth, one.busy * PROGRAM.value)
    return max(moved / bandwidth, flops / (chip.flops * _FLOPS.get(one.kind, PRODUCT.value)))
