"""The commands demo, solve, generate and env; `bench.py` holds bench, `serve.py` serve."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gsr_engine import __version__
from gsr_engine.cli import INTERRUPTED, options, terminal
from gsr_engine.cli.bench import STATUS as BENCH_STATUS
from gsr_engine.cli.bench import bench
from gsr_engine.cli.serve import STATUS as SERVE_STATUS
from gsr_engine.cli.serve import serve
from gsr_engine.errors import InvalidRequest

if TYPE_CHECKING:
    from gsr_engine.engine import Engine
    from gsr_engine.requests.generate import GenerateRequest
    from gsr_engine.requests.request import Request
    from gsr_engine.requests.self_refine import SelfRefineRequest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options at 80 columns
)
STATUS = (
    "Exit status: 0 if there is an answer, 1 if not, 2 if the request or the model is refused, "
    f"{INTERRUPTED} after Ctrl-C, which prints what was written so far."
)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gsr-engine {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Parallel refinement: k candidates at once, then a better answer."""


# Torch and transformers take seconds to import. Each command imports the engine when it runs, so
# that --help, --version and a wrong flag do not wait for them.


@app.command()
def demo(
    puzzles: Annotated[int, typer.Option(min=1, max=10_000, help="Puzzles in the table.")] = 256,
    k: Annotated[int, typer.Option(min=1, max=16, help="Candidates per puzzle.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Chooses puzzles and streams.")] = 2026,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Watch the model in the box write k candidates at once and refine them."""
    from rich.console import Console

    from gsr_engine.demo import view
    from gsr_engine.demo.puzzles import sample_puzzles
    from gsr_engine.demo.report import NANO
    from gsr_engine.engine import Engine

    console = Console(quiet=as_json)
    # Each layout pays for its own prompts.
    with (
        terminal.notes(),
        Engine.from_pretrained(NANO, prefix_cache=False, threads=threads) as engine,
    ):
        chosen = sample_puzzles("test", seed, puzzles)
        layout = engine.gsr.layouts[-1]
        try:
            with terminal.interrupts_raise():
                view.watch(console, engine, chosen[0], view.demo_params(k, layout, seed))
                report = view.run_all(console, engine, chosen, k, seed)
        except KeyboardInterrupt:
            raise terminal.interrupted() from None
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    for example in view.pick_examples(report.layouts[layout], 4):
        view.show_example(console, example)
    view.show_report(console, report)


@app.command(epilog=STATUS)
def solve(
    problem: Annotated[str, typer.Argument(help="The problem's text.", show_default=False)],
    model: options.Model = None,
    adapter: options.Adapter = None,
    program: options.Program = None,
    k: options.K = None,
    widths: options.Widths = None,
    subset: options.Subset = None,
    first: options.First = None,
    layout: options.Layout = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.CandidateTemperature = None,
    top_p: options.CandidateTopP = None,
    generation_config: options.GenerationConfig = None,
    seed: options.Seed = None,
    summary_tokens: options.SummaryTokens = None,
    force_layout: options.ForceLayout = False,
    system: options.System = None,
    template: options.Template = None,
    chat_template_kwargs: options.ChatTemplateKwargs = None,
    params: options.Params = None,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = "auto",
    speculative_config: options.SpeculativeConfig = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_gib: options.KvCacheGib = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Solve one problem by selfRef@k: k candidates in parallel, then one refinement."""
    variables = options.json_object("chat_template_kwargs", chat_template_kwargs)
    wanted = options.self_refine_params(
        params,
        {
            "k": k,
            "widths": options.round_widths(widths),
            "subset": subset,
            "first": first,
            "layout": layout,
            "seed": seed,
            "summary_tokens": summary_tokens,
            "force_layout": force_layout or None,
            "chat_template_kwargs": variables,
        },
        {"temperature": temperature, "top_p": top_p},
        max_tokens,
        program,
    )
    if template is not None:  # that of the engine, instead of the program's
        wanted = replace(wanted, template=None)

    def make(engine: Engine) -> SelfRefineRequest:
        asked = problem if system is None else options.conversation(system, problem)
        return engine.new_self_refine(
            asked, options.all_capped(wanted, engine.limits.max_model_len)
        )

    settings = {
        "adapter": adapter,
        "dtype": dtype,
        "quantization": quantization,
        "speculative_config": options.json_object("speculative_config", speculative_config),
        "max_model_len": max_model_len,
        "threads": threads,
        "template": template,
        "generation_config": generation_config,
    }
    with terminal.notes(), _ready(model, kv_cache_gib, settings, make) as (engine, request):
        from gsr_engine.cli import results, sampling

        used = request.params
        values = {
            "candidate": sampling.values(wanted.candidate, used.candidate),
            "refine": sampling.values(wanted.refine, used.refine),
        }
        terminal.note(
            sampling.line({"candidates": values["candidate"], "refinement": values["refine"]})
        )
        result, seconds, interrupted = _run(engine, request)
        solved = results.Solved(engine, result)
        if as_json:
            results.say(solved.as_json(seconds, values))
        else:
            solved.print()
        _end(result.usage.completion_tokens, seconds, interrupted, solved.why_no_answer is None)


@app.command(epilog=STATUS)
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt's text.", show_default=False)],
    model: options.Model = None,
    adapter: options.Adapter = None,
    n: options.N = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    generation_config: options.GenerationConfig = None,
    stop: options.Stop = None,
    seed: options.Seed = None,
    system: options.System = None,
    chat_template_kwargs: options.ChatTemplateKwargs = None,
    raw: options.Raw = False,
    special_tokens: options.SpecialTokens = "parse",
    params: options.Params = None,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = "auto",
    speculative_config: options.SpeculativeConfig = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_gib: options.KvCacheGib = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Answer one prompt through the chat template, or complete it as it is."""
    flags = {
        "n": n,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stop or None,
        "seed": seed,
    }
    wanted = options.sampling_params(params, flags)
    variables = options.json_object("chat_template_kwargs", chat_template_kwargs)
    if raw and (system is not None or variables is not None):
        raise InvalidRequest("raw", "is text without a template: no system, no variables for one")
    if not raw and special_tokens != "parse":
        raise InvalidRequest("special_tokens", "is for raw text; messages never spell any")

    def make(engine: Engine) -> GenerateRequest:
        capped = options.capped(wanted, engine.limits.max_model_len)
        if raw:
            return engine.new_generate(prompt, capped, special_tokens=special_tokens)
        ids = engine.chat_prompt(options.conversation(system, prompt), variables)
        return engine.new_generate(ids, capped)

    settings = {
        "adapter": adapter,
        "dtype": dtype,
        "quantization": quantization,
        "speculative_config": options.json_object("speculative_config", speculative_config),
        "max_model_len": max_model_len,
        "threads": threads,
        "generation_config": generation_config,
    }
    with terminal.notes(), _ready(model, kv_cache_gib, settings, make) as (engine, request):
        from gsr_engine.cli import results, sampling

        values = sampling.values(wanted, request.params)
        terminal.note(sampling.line({"": values}))
        result, seconds, interrupted = _run(engine, request)
        if as_json:
            results.say(results.generated_json(result, seconds, values))
        else:
            results.print_generated(result)
        _end(result.usage.completion_tokens, seconds, interrupted, result.error is None)


@contextmanager
def _ready(
    model: str | None,
    kv_cache_gib: float | None,
    settings: dict[str, Any],
    make: Callable[[Engine], RequestT],
) -> Iterator[tuple[Engine, RequestT]]:
    """An engine, and a request that it can serve: with more memory than usual if it has to be."""
    from gsr_engine.errors import PoolTooSmall
    from gsr_engine.execution.host_memory import free_memory

    with _load(model, kv_cache_gib, settings) as engine:
        try:
            request = make(engine)
        except PoolTooSmall as refusal:
            needed = refusal.kv_cache_gib
            if kv_cache_gib is not None or needed * 2**30 > free_memory():
                raise
        else:
            if model is None:
                terminal.note(
                    "no --model: this is nano, which solves the puzzles of `gsr demo` only"
                )
            yield engine, request
            return
    with _load(model, needed, settings) as engine:
        yield engine, make(engine)


def _load(model: str | None, kv_cache_gib: float | None, settings: dict[str, Any]) -> Engine:
    with terminal.loading(model or "nano"):
        from gsr_engine import Engine
        from gsr_engine.demo.report import NANO

        return Engine.from_pretrained(model or NANO, kv_cache_gib=kv_cache_gib, **settings)


def _run(engine: Engine, request: Request[ResultT]) -> tuple[ResultT, float, bool]:
    """Run a request: its result, the seconds, and whether Ctrl-C ended it."""
    from gsr_engine.cli.progress import Progress

    progress = Progress(request)
    try:
        with terminal.interrupts_raise(), progress:
            (result,) = engine.run([request], progress.step)
    except KeyboardInterrupt:
        request.end("abort", "interrupted")  # the engine may have dropped what was written
        if request.result is None:
            raise
        return request.result, progress.seconds, True
    return result, progress.seconds, False


def _end(tokens: int, seconds: float, interrupted: bool, answered: bool) -> None:
    """Say what it took, and end the command with its status."""
    from gsr_engine.cli.progress import speed

    sys.stdout.flush()
    print(f"{tokens:,} tokens in {seconds:.1f} s, {speed(tokens, seconds)}", file=sys.stderr)
    if interrupted:
        raise terminal.interrupted()
    if not answered:
        raise typer.Exit(1)


@app.command()
def env(as_json: options.Json = False) -> None:
    """What this machine and its packages are, to paste into a report."""
    from rich.console import Console
    from rich.table import Table

    from gsr_engine.environment import describe_machine
    from gsr_engine.execution.arithmetic import describe_arithmetic
    from gsr_engine.execution.threads import describe_threads

    facts = {
        **describe_machine(),
        **describe_threads(),
        **describe_arithmetic(),
        "location": str(Path(__file__).parent),
    }
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    Console().print(table)


app.command(epilog=BENCH_STATUS)(bench)
app.command(epilog=SERVE_STATUS)(serve)
