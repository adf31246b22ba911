"""The command `gsr`: demo, solve, generate, env."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gsr_engine import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
ModelOption = Annotated[
    str | None, typer.Option(help="Checkpoint folder or hub id; the model in the box if not given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
SeedOption = Annotated[int | None, typer.Option(help="Makes the run repeatable.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]
LengthOption = Annotated[
    int | None, typer.Option(help="Longest context in tokens; the checkpoint's if not given.")
]


@app.command()
def demo(
    puzzles: Annotated[int, typer.Option(min=1, max=10_000, help="Puzzles in the table.")] = 256,
    k: Annotated[int, typer.Option(min=1, max=16, help="Candidates per puzzle.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Chooses puzzles and streams.")] = 2026,
    as_json: JsonOption = False,
) -> None:
    """Watch the model in the box write k candidates at once and refine them."""
    from gsr_engine.demo import view
    from gsr_engine.demo.puzzles import sample_puzzles
    from gsr_engine.demo.report import NANO
    from gsr_engine.engine import Engine

    console = Console(quiet=as_json)
    # Each layout pays for its own prompts.
    with Engine.from_pretrained(NANO, prefix_cache=False) as engine:
        chosen = sample_puzzles("test", seed, puzzles)
        layout = engine.gsr.layouts[-1]
        view.watch(console, engine, chosen[0], view.demo_params(k, layout, seed))
        report = view.run_all(console, engine, chosen, k, seed)
    if as_json:
        print(json.dumps(report.as_dict()))
        return
    for example in view.pick_examples(report.layouts[layout], 4):
        view.show_example(console, example)
    view.show_report(console, report)


@app.command()
def solve(
    problem: Annotated[str, typer.Argument(help="The problem's text.")],
    model: ModelOption = None,
    k: Annotated[int, typer.Option(help="Candidates.")] = 4,
    layout: Annotated[str, typer.Option(help="linear or branched.")] = "linear",
    max_tokens: Annotated[int | None, typer.Option(help="Per candidate and refinement.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the candidates.")] = 1.0,
    seed: SeedOption = None,
    dtype: DtypeOption = "auto",
    max_model_len: LengthOption = None,
    force: Annotated[
        bool, typer.Option(help="Use a layout the model was not trained for.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Solve one problem by selfRef@k: k candidates in parallel, then one refinement."""
    from gsr_engine import Engine, SamplingParams, SelfRefineParams
    from gsr_engine.demo.report import NANO

    params = SelfRefineParams(
        k=k,
        layout=layout,  # type: ignore[arg-type]  # validated there
        candidate=SamplingParams(temperature=temperature, max_tokens=max_tokens),
        refine=SamplingParams(temperature=0.0, max_tokens=max_tokens),
        seed=seed,
        force_layout=force,
    )
    with Engine.from_pretrained(model or NANO, dtype=dtype, max_model_len=max_model_len) as engine:
        result = engine.self_refine([problem], params)[0]
    if as_json:
        print(
            json.dumps(
                {
                    "text": result.text,
                    "answer": result.answer,
                    "error": result.error,
                    "used": result.used,
                    "candidates": [_completion(c) for c in result.candidates],
                    "usage": result.usage.as_dict(),
                }
            )
        )
        return
    console = Console()
    for candidate in result.candidates:
        console.rule(f"candidate {candidate.index + 1} ({candidate.finish_reason})", align="left")
        console.print(candidate.text, markup=False, highlight=False)
    console.rule("refined", align="left")
    console.print(result.text or f"none: {result.error}", markup=False, highlight=False)
    console.print(f"answer: {result.answer}", markup=False, style="bold")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The prompt's text.")],
    model: ModelOption = None,
    n: Annotated[int, typer.Option(help="Streams.")] = 1,
    max_tokens: Annotated[int | None, typer.Option(help="Per stream.")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus; 1 keeps all.")] = 1.0,
    seed: SeedOption = None,
    dtype: DtypeOption = "auto",
    max_model_len: LengthOption = None,
    raw: Annotated[
        bool, typer.Option(help="Complete the text as it is, no chat template.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer one prompt through the chat template, or complete it as it is."""
    from gsr_engine import Engine, SamplingParams
    from gsr_engine.demo.report import NANO

    params = SamplingParams(
        n=n, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
    )
    with Engine.from_pretrained(model or NANO, dtype=dtype, max_model_len=max_model_len) as engine:
        if raw:
            result = engine.generate([prompt], params)[0]
        else:
            result = engine.chat([[{"role": "user", "content": prompt}]], params)[0]
    if as_json:
        completions = [_completion(completion) for completion in result.completions]
        print(json.dumps({"completions": completions, "usage": result.usage.as_dict()}))
        return
    console = Console()
    for completion in result.completions:
        if n > 1:
            console.rule(f"{completion.index + 1} ({completion.finish_reason})", align="left")
        console.print(completion.text, markup=False, highlight=False)


def _completion(completion: Any) -> dict[str, Any]:
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids),
        "logprob": completion.logprob,
    }


@app.command()
def env(as_json: JsonOption = False) -> None:
    """What this machine and its packages are, to paste into a report."""
    from gsr_engine.environment import describe_machine

    facts = {**describe_machine(), "location": str(Path(__file__).parent)}
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    Console().print(table)


def main() -> None:
    """Entry point: errors of ours are one line, not a traceback."""
    from gsr_engine.errors import GsrError

    try:
        app()
    except GsrError as error:
        print(f"gsr: {error}", file=sys.stderr)
        sys.exit(2)
