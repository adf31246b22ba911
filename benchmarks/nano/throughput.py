"""python -m benchmarks.nano.throughput: the engine's overhead on a model that is all overhead.

The same weights and the same work (P prompts of one length, 4 streams each, a fixed number of
tokens, temperature 1, fp32) in the engine and in a hand-written static-batch loop, alternating in
one run. The loop has no pages, no scheduler and no per-stream parameters. Every stream ends at the
same time, which is the work that suits such a loop best.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.nano.static_loop import StaticLoop
from gsr_engine import Engine, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.environment import describe_machine
from gsr_engine.model.weights import load_decoder
from train.command import run_command

N = 4


def measure(run: Callable[[], object], tokens: int) -> float:
    """Tokens per second of one run."""
    start = time.perf_counter()
    run()
    return tokens / (time.perf_counter() - start)


def main(
    streams: Annotated[str, typer.Option(help="Numbers of streams, comma separated.")] = "32,500",
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 24,
    tokens: Annotated[int, typer.Option(help="Generated tokens per stream.")] = 80,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; the median counts.")] = 7,
) -> None:
    """Print tokens/s of both and their ratio."""
    loop = StaticLoop(load_decoder(NANO, ModelConfig.from_folder(NANO), torch.float32), 1024)
    params = SamplingParams(n=N, temperature=1.0, max_tokens=tokens, seed=0, ignore_eos=True)
    table = Table(title="nano, tokens/s", title_justify="left")
    for column in ("streams", "engine", "static loop", "ratio"):
        table.add_column(column, justify="right")
    with Engine.from_pretrained(NANO, dtype="float32", prefix_cache=False) as engine:
        for count in map(int, streams.split(",")):
            ids = torch.randint(engine.limits.vocab_size, (count // N, prompt))
            prompts = ids.tolist()
            pairs = [
                (
                    measure(lambda p=prompts: engine.generate(p, params), count * tokens),  # type: ignore[misc]
                    measure(lambda i=ids: loop.run(i, N, tokens), count * tokens),  # type: ignore[misc]
                )
                for _ in range(rounds + 1)
            ][1:]  # the first round warms up
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            table.add_row(str(count), f"{ours:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in describe_machine().items()))


if __name__ == "__main__":
    run_command("nano throughput", lambda: typer.run(main))
