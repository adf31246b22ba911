"""python -m benchmarks.throughput.profile: where the time of one layout goes.

torch.profiler records the run. The kernels' functions, the products and the attention are wrapped
in ranges here, at run time, because native kernels are no operators of torch, and because the
engine itself has no code for profiling. A range's time is its own: what ranges inside of it take
is counted there.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import csrc_triton
from benchmarks.random_weights import SHAPES
from benchmarks.throughput.machine_limits import chip
from benchmarks.throughput.ours import OurEngines
from benchmarks.throughput.table import WIDTH
from benchmarks.throughput.works import WorkSize, subjects
from gsr_engine import Engine
from gsr_engine.environment import describe_machine
from gsr_engine.execution.runner import Runner
from gsr_engine.execution.sampler import Sampler
from gsr_engine.model.linear import Linear
from gsr_engine.params import LAYOUTS
from train.command import run_command

_WORK, _STEP, _PART = "work", "step: ", "part: "
_NATIVE = "native code and Python"
_TOP_OPERATORS = 16


def _ranged(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name(*args)):
            return function(*args, **kwargs)

    return call


def _step_kind(_: Runner, plan: Any) -> str:
    decodes = sum(chunk.decode for chunk in plan.chunks)
    kind = f"decode × {decodes}" if decodes == len(plan.chunks) else "prefill"
    return _STEP + kind


@contextmanager
def ranges() -> Iterator[None]:
    """Put ranges around the steps and their parts, for as long as the context is open."""
    engine_modules = [m for n, m in sys.modules.items() if n.partition(".")[0] == "gsr_engine"]
    targets: list[tuple[Any, str, Callable[..., str]]] = [
        (Engine, "self_refine", lambda *_: _WORK),
        (Runner, "launch", _step_kind),
        (Linear, "__call__", lambda *_: _PART + "products"),
        (Sampler, "draw", lambda *_: _PART + "draw"),
    ]
    for attention in _attention_classes():
        targets += [
            (attention, "begin", lambda *_: _PART + "attention: begin"),
            (attention, "forward", lambda *_: _PART + "attention: forward"),
        ]
    for name in csrc_triton.__all__:
        public = getattr(csrc_triton, name)
        if not isinstance(public, type):
            users = [m for m in engine_modules if getattr(m, name, None) is public]
            targets += [(m, name, lambda *_, n=name: _PART + n) for m in users]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in targets]
    for owner, name, label in targets:
        setattr(owner, name, _ranged(getattr(owner, name), label))
    try:
        yield
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)


def _attention_classes() -> list[type]:
    """What the engine has of classes that attend, whatever their names."""
    modules = [m for n, m in sys.modules.items() if n.startswith("gsr_engine.attention.")]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and not getattr(value, "_is_protocol", False)
    }
    return [one for one in found if {"begin", "forward"} <= vars(one).keys()]


def _enclosing(event: FunctionEvent, prefix: str) -> FunctionEvent | None:
    at: FunctionEvent | None = event
    while at is not None and not at.name.startswith(prefix):
        at = at.cpu_parent
    return at


@dataclass(slots=True)
class Profile:
    """Seconds of one work, all exclusive.

    Attributes:
        total: of the whole work.
        steps: by kind of step and by part.
        operators: by part and by operator of torch.
    """

    total: float
    steps: dict[str, Counter[str]]
    operators: dict[str, Counter[str]]

    @property
    def parts(self) -> Counter[str]:
        """By part, over all steps."""
        return sum(self.steps.values(), Counter())


def seconds_by_part(events: list[FunctionEvent]) -> Profile:
    """The profile of the last work among the events; those before it warm up."""
    work = max((one for one in events if one.name == _WORK), key=lambda one: one.time_range.start)
    found = Profile(work.cpu_time_total / 1e6, defaultdict(Counter), defaultdict(Counter))
    for event in events:
        step, part = _enclosing(event, _STEP), _enclosing(event, _PART)
        if step is None or _enclosing(event, _WORK) is not work:
            continue  # between steps
        name = part.name.removeprefix(_PART) if part else "the rest of the model"
        seconds = event.self_cpu_time_total / 1e6
        found.steps[step.name.removeprefix(_STEP)][name] += seconds
        operator = _NATIVE if event.name.startswith((_PART, _STEP)) else event.name
        found.operators[name][operator] += seconds
    return found


def show(console: Console, title: str, found: Profile) -> None:
    """Print the parts by kind of step, then the operators within the parts."""
    total, parts = found.total, found.parts
    kinds = sorted(found.steps, key=lambda kind: -found.steps[kind].total())
    console.print(title)
    table = Table()
    table.add_column("seconds", no_wrap=True)
    for column in ("all", "%", *kinds):
        table.add_column(column, justify="right")
    for part, seconds in parts.most_common():
        cells = [f"{found.steps[kind][part]:.2f}" for kind in kinds]
        table.add_row(part, f"{seconds:.2f}", f"{100 * seconds / total:.1f}", *cells)
    between = total - parts.total()
    table.add_row("between steps", f"{between:.2f}", f"{100 * between / total:.1f}")
    sums = [f"{found.steps[kind].total():.2f}" for kind in kinds]
    table.add_row("sum", f"{total:.2f}", "100", *sums)
    console.print(table)
    inner = Table(title="operators within the parts", title_justify="left")
    for column in ("part", "operator", "seconds", "%"):
        inner.add_column(column, justify="right" if column in ("seconds", "%") else "left")
    rows = [(s, part, name) for part, by in found.operators.items() for name, s in by.items()]
    for seconds, part, name in sorted(rows, reverse=True)[:_TOP_OPERATORS]:
        inner.add_row(part, name, f"{seconds:.2f}", f"{100 * seconds / total:.1f}")
    console.print(inner)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "26m",
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder instead.")] = None,
    layout: Annotated[str, typer.Option(help=f"One of {', '.join(LAYOUTS)}.")] = "linear",
    work: Annotated[
        str, typer.Option(help="Problems x candidates : tokens of a problem/candidate/refinement.")
    ] = "8x8:128/128/128",
    dtype: Annotated[str, typer.Option(help="bfloat16, float32 or auto.")] = "auto",
    quantization: Annotated[
        Literal["none", "int8"], typer.Option(help="int8: products in 8 bits.")
    ] = "none",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="Also write the text to this file.")] = None,
) -> None:
    """Profile selfRef@k of one layout."""
    if threads:
        torch.set_num_threads(threads)
    chosen = next((one for one in LAYOUTS if one == layout), None)
    if chosen is None:
        raise typer.BadParameter(f"layout: {layout!r} is none of {', '.join(LAYOUTS)}")
    size = WorkSize.parsed(work)
    (subject,) = subjects("" if model else shape, model)
    task = replace(subject.work(size, dtype, kv_gib), quantization=quantization)
    with (
        OurEngines(task) as ours,
        ranges(),
        profile(activities=[ProfilerActivity.CPU]) as recorded,
    ):
        result = ours.refine(chosen)
    title = (
        f"{subject.name} in {task.precision}, {chosen}: {size.words}; "
        f"{result.tokens_per_second:.1f} tokens/s under the profiler"
    )
    console = Console(record=True, width=WIDTH)
    show(console, title, seconds_by_part(list(recorded.events())))
    facts = {"chip": chip(), **describe_machine()}
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if out:
        out.write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput profile", lambda: typer.run(main))
