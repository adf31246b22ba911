"""The command bench: how fast a model refines on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gsr_engine.cli import INTERRUPTED, options, terminal
from gsr_engine.errors import InvalidRequest, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table

    from gsr_engine.engine import Engine
    from gsr_engine.model.decoder import Decoder
    from gsr_engine.speed.refine_speed import Case, CaseSpeed, RefineSpeed

STATUS = (
    "Exit status: 0 if every row is there, 2 if a value or the model is refused, "
    f"{INTERRUPTED} after Ctrl-C, which prints the rows so far."
)
_PHASES = ("candidate_prefill", "candidate_decode", "refine_prefill", "refine_decode")
_WIDTH = 112
"""Columns that the table needs."""


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder, GGUF file or hub id.", metavar="MODEL", show_default=False
        ),
    ],
    adapter: options.Adapter = None,
    k: Annotated[str, typer.Option(help="Candidates, with commas.")] = "1,2,4,8",
    tokens: Annotated[
        str, typer.Option(help="Tokens of problem, candidate and refinement.")
    ] = "128/128/128",
    problems: Annotated[int, typer.Option(help="Problems side by side.")] = 1,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = "auto",
    speculative_config: options.SpeculativeConfig = None,
    kv_cache_gib: Annotated[
        float | None,
        typer.Option(
            help="Memory for KV pages. [default: half of what is free]", show_default=False
        ),
    ] = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Measure selfRef@k of a model: both layouts, every phase, and the machine's limits."""
    counts, lengths = _counts("k", k, ","), _counts("tokens", tokens, "/")
    if len(lengths) != 3:
        raise InvalidRequest(
            "tokens", f"must be three counts like 256/512/512, got {shown(tokens)}"
        )

    from rich.console import Console

    from gsr_engine.config import EngineConfig
    from gsr_engine.engine import Engine
    from gsr_engine.execution.loading import load_parts
    from gsr_engine.execution.threads import Threads
    from gsr_engine.speed.refine_speed import Lengths, RefineSpeed, Work

    work = Work(ks=counts, tokens=Lengths(*lengths), problems=problems)
    config = EngineConfig(
        dtype=dtype,
        quantization=quantization,
        speculative_config=options.json_object("speculative_config", speculative_config),
        kv_cache_gib=kv_cache_gib,
        prefix_cache=False,
        threads=threads,
    )
    with terminal.notes(), Threads(threads).held():  # for the machine's limits, too
        with terminal.loading(model):
            decoder, tokenizer, gsr = load_parts(model, config, adapter=adapter)
            engine = Engine(decoder, tokenizer, gsr, config)
        with engine:
            run = _Run(Console(stderr=True), engine, decoder, RefineSpeed(engine, work))
            complete = run.measure()
            found = {"model": model, "adapter": adapter, "work": asdict(work), **run.as_dict()}
    if as_json:
        print(json.dumps(found))
    elif run.rows:
        _show(Console(), found)
    if not complete:
        raise terminal.interrupted()


class _Run:
    """One run of the command: what is measured so far.

    Attributes:
        rows: the cases that are done.
    """

    def __init__(
        self, console: Console, engine: Engine, decoder: Decoder, speed: RefineSpeed
    ) -> None:
        from gsr_engine.speed.machine_limits import StepProducts

        self.rows: list[CaseSpeed] = []
        self._console, self._engine, self._speed = console, engine, speed
        self._device, self._products = decoder.device, StepProducts(decoder)

    def measure(self) -> bool:
        """Measure every case; False if Ctrl-C ended it."""
        try:
            with terminal.interrupts_raise(), self._console.status("the first steps") as status:
                seconds = self._speed.estimate()
                wait = f"about {_duration(seconds)} for {len(self._speed.cases)} rows"
                terminal.note(f"{wait}, by the first steps")
                for case in self._speed.cases:
                    self._measure(case, status)
        except KeyboardInterrupt:
            return False
        return True

    def _measure(self, case: Case, status: Status) -> None:
        name = f"k {case.k}, {case.layout}"
        row = self._speed.measure(case, self._products, partial(_tell, status, name))
        self.rows.append(row)
        self._console.print(f"{name}: {row.tokens_per_second:,.1f} tokens/s", style="dim")

    def as_dict(self) -> dict[str, Any]:
        """The run as plain numbers, beside the machine's facts."""
        from gsr_engine.environment import describe_machine
        from gsr_engine.speed.machine_limits import copy_bandwidth
        from gsr_engine.speed.peak_memory import peak_memory

        peak = peak_memory(self._device)  # before the copy takes memory of its own
        footprint = self._engine.footprint
        copy_gb, weights = copy_bandwidth(device=self._device), self._products.weight_bytes
        rows = [
            {**asdict(row), "weights_seconds": row.steps * weights / (1e9 * copy_gb)}
            for row in self.rows
        ]
        return {
            "machine": describe_machine(),
            "load": {**asdict(footprint), "arithmetic": footprint.arithmetic},
            "peak_gib": peak / 2**30,
            "copy_gb": copy_gb,
            "step_weights_gib": weights / 2**30,
            "rows": rows,
        }


def _tell(status: Status, name: str, tokens: int) -> None:
    status.update(f"{name}: {tokens:,} tokens")


def _counts(field: str, text: str, separator: str) -> list[int]:
    parts = [part.strip().replace(",", "") for part in text.split(separator)]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise InvalidRequest(field, f"must be counts with {separator!r} between, got {shown(text)}")
    return [int(part) for part in parts]


def _duration(seconds: float) -> str:
    return f"{max(1, seconds):,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} minutes"


def _show(console: Console, run: dict[str, Any]) -> None:
    console.width = max(console.width, _WIDTH)
    console.print(_table(run))
    told = {f"* {note}": None for row in run["rows"] for note in row["notes"]}
    told[
        "limits of the same steps: products are their matrix products alone; bytes are their "
        f"weights ({run['step_weights_gib']:.3g} GiB a step) over the copy bandwidth "
        f"({run['copy_gb']:.1f} GB/s)"
    ] = None
    told[f"peak memory {run['peak_gib']:.2f} GiB, KV pages included"] = None
    told[", ".join(f"{name} {value}" for name, value in run["machine"].items())] = None
    for line in told:
        console.print(line, highlight=False)


def _table(run: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table

    work = run["work"]
    model = run["model"] + (f" with {run['adapter']}" if run["adapter"] else "")
    title = (
        f"{model} in {run['load']['arithmetic']}: selfRef@k, problems: {work['problems']}, "
        f"tokens: {'/'.join(f'{count:,}' for count in work['tokens'])}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("k", justify="right")
    table.add_column("layout", no_wrap=True)
    phases = (f"{name.replace('_', chr(10))} s" for name in _PHASES)
    for name in ("tokens/s", "answer\ns", *phases, "products\ns", "bytes\ns", "KV\nGiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in run["rows"]:
        seconds = [row["answer_seconds"], *(row["phases"].get(name, 0.0) for name in _PHASES)]
        limits = [row["products_seconds"], row["weights_seconds"]]
        table.add_row(
            str(row["k"]),
            row["layout"] + "*" * bool(row["notes"]),
            f"{row['tokens_per_second']:,.1f}",
            *(f"{value:,.2f}" for value in (*seconds, *limits)),
            f"{row['kv_peak_gib']:.3f}",
        )
    return table
