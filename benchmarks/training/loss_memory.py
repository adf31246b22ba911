"""python -m benchmarks.training.loss_memory: memory of the loss, over vocabulary x targets.

Forward and backward of `train.trainer.loss.target_losses` beside cross-entropy over all logits, in
fp32 on a CPU. Measured is the process's high-water mark (Linux) minus the memory before the run:
the hidden states, the head, and the gradients of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import torch
import torch.nn.functional as F
import typer
from matplotlib import pyplot as plt  # after the backend is chosen
from rich.console import Console
from rich.table import Table

from gsr_engine.environment import describe_machine
from train.command import run_command
from train.trainer.loss import CHUNK, target_losses

mpl.use("Agg")

_HIDDEN = 64
"""Small, because the head and its gradient are not measured."""
_COPIES = 3
"""Copies of all logits in plain cross-entropy: the logits, their logarithms, a gradient."""

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def plain_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every target, as it is usually written."""
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="none")


def peak_bytes(run: Callable[[], object]) -> int:
    """Peak memory of this process during a run, above its memory before; Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
    before = _status("VmHWM")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise OSError(f"/proc/self/status does not tell {name}")


def loss_bytes(loss: Loss, vocab_size: int, targets: int) -> int:
    """Peak memory of a loss and its backward, without the inputs and their gradients."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(size, _HIDDEN, generator=generator).requires_grad_()
        for size in (targets, vocab_size)
    )
    for leaf in (hidden, weight):
        leaf.grad = torch.ones_like(leaf)  # pages of zeros would not be allocated yet
    wanted = torch.randint(vocab_size, (targets,), generator=generator)
    return peak_bytes(lambda: loss(hidden, weight, wanted).sum().backward())


def measure(vocab_sizes: list[int], targets: list[int], limit: float, say: Console) -> list[Any]:
    """A row for each point; plain cross-entropy is left out if it would need too much memory.

    Args:
        vocab_sizes: of the points.
        targets: of the points.
        limit: bytes that plain cross-entropy may hold.
        say: prints progress.
    """
    loss_bytes(partial(target_losses, chunk=1 << 20), 1024, 2048)  # threads, kernels: once
    rows = []
    for vocab_size in vocab_sizes:
        for count in targets:
            logits = vocab_size * count
            fits = 4 * _COPIES * logits <= limit
            row = {
                "vocab_size": vocab_size,
                "targets": count,
                "logits_bytes": 4 * logits,
                "ours_bytes": loss_bytes(target_losses, vocab_size, count),
                "plain_bytes": loss_bytes(plain_losses, vocab_size, count) if fits else None,
            }
            rows.append(row)
            say.print(f"[dim]{len(rows)}/{len(vocab_sizes) * len(targets)}  {row}[/]")
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    """In GiB."""
    table = Table(title="memory of the loss and its backward, GiB", title_justify="left")
    for column in ("vocabulary", "targets", "all logits", "plain", "ours"):
        table.add_column(column, justify="right")
    for row in rows:
        sizes = [row[f"{name}_bytes"] for name in ("logits", "plain", "ours")]
        cells = ["too much" if size is None else f"{size / 2**30:.2f}" for size in sizes]
        table.add_row(f"{row['vocab_size']:,}", f"{row['targets']:,}", *cells)
    return table


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Both over the number of logits."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, style in (("plain", "s"), ("ours", "o")):
        there = [row for row in rows if row[f"{name}_bytes"] is not None]
        x = [row["logits_bytes"] / 4 for row in there]
        axes.plot(x, [row[f"{name}_bytes"] / 2**30 for row in there], style, label=name)
    axes.axvline(CHUNK, color="grey", lw=0.8, ls=":", label="one chunk")
    axes.set(xscale="log", yscale="log", xlabel="vocabulary × targets", ylabel="GiB")
    axes.set_title("memory of the loss and its backward, fp32")
    axes.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(
    vocab_sizes: Annotated[str, typer.Option(help="With commas.")] = "32768,65536,151936",
    targets: Annotated[str, typer.Option(help="Target tokens, with commas.")] = "1024,4096,16384",
    limit_gib: Annotated[float, typer.Option(help="Most that plain may take.")] = 6.0,
    out: Annotated[Path, typer.Option(help="Folder for JSON, table and plot.")] = Path(
        "runs/train-memory"
    ),
) -> None:
    """Measure the memory of the loss."""
    out.mkdir(parents=True, exist_ok=True)
    sizes, counts = ([int(one) for one in text.split(",")] for text in (vocab_sizes, targets))
    rows = measure(sizes, counts, limit_gib * 2**30, Console(stderr=True))
    machine = describe_machine()
    text = json.dumps({"machine": machine, "chunk": CHUNK, "rows": rows}, indent=1)
    (out / "memory.json").write_text(text, encoding="utf-8")
    console = Console(record=True, width=100)
    console.print(table_of(rows))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    (out / "memory.txt").write_text(console.export_text(), encoding="utf-8")
    plot(rows, out / "memory.png")


if __name__ == "__main__":
    run_command("loss_memory", lambda: typer.run(main))
