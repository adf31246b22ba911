"""The trainer: how much of the chip a step of it uses, and whether its attention is right.

The model has as many layers of 7B's shape as fit on one GPU, with embedding and head, in bf16 over
fp32 parameters. Rows of all three kinds have lognormal lengths and are packed to 16k tokens. `mfu`
counts the pairs of tokens that see one another; `mfu_full` counts all pairs of a row. The time
contains the update. With fewer layers the head weighs more: `head_share` is its share of the
operations.

The reference is the CPU's path, which is tested against transformers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.kernels import measure_limits
from benchmarks.random_weights import shape_config
from benchmarks.training_rows import Kind, RowSizes, random_rows
from train.objectives import OBJECTIVES
from train.rows import Row as TrainingRow
from train.trainer.batches import PackedBatch, collate, pack
from train.trainer.config import Dtype, SftConfig
from train.trainer.flops import Flops, peak_flops
from train.trainer.model import Trainee, build_model
from train.trainer.model_size import ModelSize
from train.trainer.optimizer import clip_gradients, make_optimizer
from train.trainer.world import World, joined

_KINDS: tuple[Kind, ...] = ("direct", "linear", "branched")
_ASKED = 0.40
_SCALE = 0.02
# Share of the packs that the rows may fill: rows do not fill packs to the last token.
_FILL = 0.95
# Share of the free memory that is planned for; an allocator cannot use all of it.
_MEMORY = 0.85
# The error may be this many times that of the CPU's own bf16 path, which attends in fp32.
_TIMES_ROUNDED = 3.0


_LONG = RowSizes(problem=300, summary=600, target=3000, spread=0.6, k=4, longest=16_384)
_SHORT = RowSizes(problem=12, summary=10, target=30, spread=0.5, k=3, longest=300)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The work.

    Attributes:
        shape: of the model.
        rows: lengths of the rows.
        pack: tokens of one forward.
        packs: of one step, approximately.
        steps: timed steps; one more step warms up.
    """

    shape: str = "7b"
    rows: RowSizes = _LONG
    pack: int = 16_384
    packs: int = 2
    steps: int = 1


_TINY = _Sizes(shape="tiny", rows=_SHORT, pack=512, steps=1)


def run(setting: Setting, record: Record) -> None:
    """One way to train, then one comparison: each takes the compiler many seconds."""
    sizes = _TINY if setting.tiny else _Sizes()
    measure_limits(setting.device)  # while the memory is free
    # On a CPU every row has another shape, so compilation does not pay.
    compiled = setting.on_gpu
    way = "compiled" if compiled else "eager"
    with _alone(setting) as world:
        step = partial(_time_steps, sizes, setting, world, compiled, record)
        record.attempt("training step", f"selective checkpointing, {way}", step)
        check = partial(_compare, compiled, world)
        record.attempt("against the CPU", f"bfloat16, {way}", check)


@contextmanager
def _alone(setting: Setting) -> Iterator[World]:
    """A world of one process, on the device of the setting."""
    with joined() as world:
        yield replace(world, device=torch.device(setting.device))


def _config(sizes: _Sizes, **settings: Any) -> SftConfig:
    settings = {"dtype": "bfloat16", **settings}
    return SftConfig(model="random", data=Path(), out=Path(), pack=sizes.pack, **settings)


def layers_that_fit(shape: PretrainedConfig, config: SftConfig, free: float) -> int:
    """The most layers of a shape that a step can train in `free` bytes; at least one."""
    size = ModelSize.of(shape)
    for layers in range(shape.num_hidden_layers, 1, -1):
        parameters = size.root + layers * size.layer
        smaller = replace(size, layers=layers, parameters=parameters, trained=parameters)
        if sum(smaller.bytes_per_rank(config, 1, config.pack, config.pack).values()) <= free:
            return layers
    return 1


def with_layers(shape: PretrainedConfig, layers: int) -> PretrainedConfig:
    """A shape with another number of layers, all like its first layer."""
    raw = shape.to_dict() | {"num_hidden_layers": layers, "layer_types": None}
    return type(shape).from_dict(raw)


def packed_rows(sizes: _Sizes, vocab_size: int) -> list[list[TrainingRow]]:
    """Packs of rows of all kinds, about as many as in one step."""
    drawn = random_rows(_KINDS * (8 * sizes.packs), sizes.rows, vocab_size)
    room = _FILL * sizes.pack * sizes.packs
    ends = accumulate(map(len, drawn))
    rows = [row for row, end in zip(drawn, ends, strict=True) if end <= room]
    return [[rows[at] for at in places] for places in pack(list(map(len, rows)), sizes.pack, 1)]


def _time_steps(
    sizes: _Sizes, setting: Setting, world: World, compiled: bool, record: Record
) -> Row:
    setting.free_memory()
    config = _config(sizes, checkpointing="selective", compile=compiled)
    shape = shape_config(sizes.shape)
    if setting.on_gpu:
        free = _MEMORY * torch.cuda.mem_get_info()[0]
        shape = with_layers(shape, layers_that_fit(shape, config, free))
        torch.cuda.reset_peak_memory_stats()
    trainee = build_model(shape, config, world.mesh(0))
    _fill(trainee)
    optimizer = make_optimizer(trainee, config)
    packs = packed_rows(sizes, shape.vocab_size)
    step = partial(_step, trainee, optimizer, packs, world, config)
    times = [step() for _ in range(sizes.steps + 1)][1:]
    seconds, update = (median(one) for one in zip(*times, strict=True))
    rows = [row for one in packs for row in one]
    tokens, flops = sum(map(len, rows)), Flops.of(shape)
    rates = [count / seconds for count in flops.of_rows(rows)]
    head = 6 * flops.head * sum(row.num_targets for row in rows)
    peak = peak_flops(world.device)
    if peak:
        case = f"MFU of a training step, {shape.num_hidden_layers} layers of {sizes.shape}"
        record.target(case, asked=_ASKED, measured=rates[0] / peak)
    return {
        **{
            name: peak and rate / peak
            for name, rate in zip(("mfu", "mfu_full"), rates, strict=True)
        },
        "of_matmul": 1e-12 * rates[0] / measure_limits(setting.device).matmul_tflops,
        "tokens_per_s": tokens / seconds,
        "step_s": seconds,
        "update_s": update,
        "layers": shape.num_hidden_layers,
        "head_share": head / (rates[0] * seconds),
        "packs": len(packs),
        "padding": 1 - tokens / (len(packs) * sizes.pack),
        "gib": torch.cuda.max_memory_allocated() / 2**30 if setting.on_gpu else None,
    }


def _step(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    packs: Sequence[Sequence[TrainingRow]],
    world: World,
    config: SftConfig,
) -> tuple[float, float]:
    """Seconds of a step as in the trainer, and the update's part of them."""
    start = time.perf_counter()
    for batch in _batches(packs, world.device, config.pack):
        trainee(batch).sum().backward()
    _wait(world.device)
    middle = time.perf_counter()
    clip_gradients(trainee, config.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    _wait(world.device)
    end = time.perf_counter()
    return end - start, end - middle


def _batches(
    packs: Sequence[Sequence[TrainingRow]], device: torch.device, size: int
) -> Iterator[PackedBatch]:
    # All batches have one shape, so that kernels are compiled once.
    return (collate(rows, device, size if device.type == "cuda" else 0) for rows in packs)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def _fill(trainee: Trainee) -> None:
    """Draw the weights in place: reading a checkpoint of this size takes longer than the check."""
    torch.manual_seed(0)
    for parameter in map(_local, trainee.parameters()):
        if parameter.dim() > 1:
            parameter.normal_(0.0, _SCALE)
        else:
            parameter.fill_(1.0)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, because this process is alone."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _compare(compiled: bool, world: World) -> Row:
    """Compare losses and gradients of a tiny model in bf16 over packed rows of all kinds."""
    on_cpu = replace(world, device=torch.device("cpu"))
    exact = _gradients("float32", False, on_cpu)
    errors = _errors(_gradients("bfloat16", compiled, world), exact)
    rounded = _errors(_gradients("bfloat16", False, on_cpu), exact)
    limit = _TIMES_ROUNDED * max(rounded.values())
    worst = max(errors, key=errors.__getitem__)
    passed = all(error <= limit for error in errors.values())  # NaN is not
    return {"error": errors[worst], "of": worst, "limit": limit, "passed": passed}


def _gradients(dtype: Dtype, compiled: bool, world: World) -> dict[str, torch.Tensor]:
    """Gradients by name, and the losses, on the CPU; the weights are the same each time."""
    config = _config(_TINY, dtype=dtype, compile=compiled)
    shape = shape_config(_TINY.shape)
    trainee = build_model(shape, config, world.mesh(0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in map(_local, trainee.parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.dim() > 1
            parameter.copy_(values * shape.hidden_size**-0.5 if matrix else 1 + 0.1 * values)
    losses = torch.zeros(len(OBJECTIVES), device=world.device)
    for batch in _batches(packed_rows(_TINY, shape.vocab_size), world.device, config.pack):
        some = trainee(batch)
        some.sum().backward()
        losses += some.detach()
    gradients = {name: _gradient(one).cpu() for name, one in trainee.named_parameters()}
    return {"losses": losses.cpu(), **gradients}


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        raise RuntimeError("a parameter has no gradient")
    return _local(parameter.grad)


def _errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """The error of each tensor, relative to its norm."""
    return {name: float((found[name] - one).norm() / one.norm()) for name, one in exact.items()}
