"""python -m benchmarks.throughput.profile: where the time of one layout goes.

torch.profiler records the run. The kernels' functions, the products and the attention are wrapped
in ranges here, at run time, because native kernels are no operators of torch, and because the
engine itself has no code for profiling. A range's time is its own: what ranges inside of it take
is counted there.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

import csrc_triton
from benchmarks.random_weights import SHAPES, random_problems, write_checkpoint
from benchmarks.throughput.ours import RefineWork
from gsr_engine.environment import describe_machine
from gsr_engine.execution.runner import Runner
from gsr_engine.execution.sampler import Sampler
from gsr_engine.model.linear import Linear, compute_dtype
from gsr_engine.params import Layout
from train.command import run_command

_STEP, _PART = "step: ", "part: "
_TOP_OPERATORS = 12


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


def _enclosing(event: FunctionEvent, prefix: str) -> str | None:
    at: FunctionEvent | None = event
    while at is not None and not at.name.startswith(prefix):
        at = at.cpu_parent
    return None if at is None else at.name.removeprefix(prefix)


def seconds_by_part(
    events: list[FunctionEvent],
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """({step kind: {part: seconds}}, {part: {operator: seconds}}); seconds are exclusive."""
    steps: dict[str, Counter[str]] = defaultdict(Counter)
    operators: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        seconds = event.self_cpu_time_total / 1e6
        part = _enclosing(event, _PART) or "the rest of the model"
        kind = _enclosing(event, _STEP)
        if kind is None:
            continue  # between steps; the caller knows the whole time
        steps[kind][part] += seconds
        name = "native code and Python" if event.name.startswith((_PART, _STEP)) else event.name
        operators[part][name] += seconds
    return steps, operators


def show(
    console: Console,
    title: str,
    total: float,
    steps: dict[str, Counter[str]],
    operators: dict[str, Counter[str]],
) -> None:
    """Print the parts by kind of step, then the operators within the parts."""
    by_part: Counter[str] = Counter()
    for parts in steps.values():
        by_part.update(parts)
    kinds = sorted(steps, key=lambda kind: -steps[kind].total())
    table = Table(title=title, title_justify="left")
    table.add_column("seconds", no_wrap=True)
    for column in ("all", "%", *kinds):
        table.add_column(column, justify="right")
    for part, seconds in by_part.most_common():
        cells = [f"{steps[kind][part]:.2f}" for kind in kinds]
        table.add_row(part, f"{seconds:.2f}", f"{100 * seconds / total:.0f}", *cells)
    between = total - by_part.total()
    table.add_row("between steps", f"{between:.2f}", f"{100 * between / total:.0f}")
    sums = [f"{steps[kind].total():.2f}" for kind in kinds]
    table.add_row("sum", f"{total:.2f}", "100", *sums)
    console.print(table)
    rows = [(s, part, name) for part, found in operators.items() for name, s in found.items()]
    inner = Table(title="operators within the parts", title_justify="left")
    for column in ("part", "operator", "seconds", "%"):
        inner.add_column(column, justify="right" if column in ("seconds", "%") else "left")
    for seconds, part, name in sorted(rows, reverse=True)[:_TOP_OPERATORS]:
        inner.add_row(part, name, f"{seconds:.2f}", f"{100 * seconds / total:.0f}")
    console.print(inner)


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")] = "26m",
    layout: Annotated[str, typer.Option(help="linear or branched.")] = "linear",
    problems: Annotated[int, typer.Option(min=1, help="Problems.")] = 8,
    k: Annotated[int, typer.Option(min=2, help="Candidates per problem.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a problem.")] = 128,
    candidate: Annotated[int, typer.Option(min=2, help="Tokens of a candidate.")] = 128,
    refine: Annotated[int, typer.Option(min=2, help="Tokens of a refinement.")] = 128,
    dtype: Annotated[str, typer.Option(help="bfloat16, float32 or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: torch's.")] = None,
    kv_gib: Annotated[float, typer.Option(help="Memory for keys and values.")] = 4.0,
    out: Annotated[Path | None, typer.Option(help="Also write the text to this file.")] = None,
) -> None:
    """Profile selfRef@k of one layout."""
    if threads:
        torch.set_num_threads(threads)
    chosen: Layout = "branched" if layout == "branched" else "linear"
    auto = str(compute_dtype(torch.bfloat16)).removeprefix("torch.")
    work = RefineWork(
        model=write_checkpoint(shape),
        problems=random_problems(problems, prompt),
        k=k,
        candidate_tokens=candidate,
        refine_tokens=refine,
        dtype=auto if dtype == "auto" else dtype,
        threads=torch.get_num_threads(),
        kv_gib=kv_gib,
    )
    with work.engine() as engine, ranges():
        engine.self_refine([p[::-1] for p in work.problems], work.params(chosen, tokens=2))
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            start = time.perf_counter()
            results = engine.self_refine(work.problems, work.params(chosen))
            total = time.perf_counter() - start
    tokens = sum(result.usage.completion_tokens for result in results)
    title = (
        f"selfRef@{k} {chosen}, {shape} in {work.dtype}, {problems} problems of {prompt}, "
        f"candidates {candidate}, refinements {refine}: {tokens / total:.1f} tokens/s "
        "under the profiler"
    )
    console = Console(record=True, width=110)
    show(console, title, total, *seconds_by_part(list(recorded.events())))
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))
    if out:
        out.write_text(console.export_text(), encoding="utf-8")


if __name__ == "__main__":
    run_command("throughput profile", lambda: typer.run(main))
