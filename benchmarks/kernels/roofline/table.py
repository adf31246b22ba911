"""The tables of the roofline, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from benchmarks.kernels.roofline.chips import ASSUMPTIONS, CHIPS
from benchmarks.kernels.roofline.times import Phase, Seconds

_NOTE = """\
No GPU has run this. Counted are launches, programs, bytes and FLOPs of the steps that the engine
plans for this work: its planner, lists, graphs and sampler run over a decoder of this shape whose
products nobody computes. Estimated are the seconds, by the assumptions below. Of steps that only
decode every {every}th is counted. Those in between lie on a line; the last of a run, fewer than
that, count like the one before them. Copies between host and device, the waves of programs, and the
L2 cache across launches are not modelled.

`floor`: the larger of the bytes that nobody can avoid (weights, and each token's keys and values,
once a step) over the data sheet's bandwidth, and of the FLOPs of real rows over its rate. The
columns behind it are what the launches as built take on top: `shares` of the limits that products
and attention reach, one after the other; `padding` of rows to a graph's and of tiles; `partials`
written, read and merged; `elementwise` kernels; gaps between `launches`; what the device waits for
the `host`.
They add up to `reach`. Tokens/s of a phase are those that it computes, of `all` those that are
drawn. Steps that prefill and decode count for their prefill."""


def document(results: Sequence[tuple[str, Mapping[str, Phase]]], every: int) -> str:
    """Titles with the phases of a run, as a Markdown text with notes and assumptions."""
    parts = ["# What selfRef@k could reach on a GPU", _NOTE.format(every=every), assumptions()]
    parts += [f"## {title}\n\n{tables(phases)}" for title, phases in results]
    return "\n\n".join(parts) + "\n"


def assumptions() -> str:
    """The chips and what is assumed, each with its source."""
    facts = [
        [
            chip.name,
            f"{chip.bandwidth / 1e12:g}",
            f"{chip.flops / 1e12:g}",
            str(chip.multiprocessors),
            str(chip.l2_mib),
            f"{chip.memory_gib:g}",
            chip.source,
        ]
        for chip in CHIPS.values()
    ]
    assumed = [[f"{one.value:.3g}", one.unit, one.source] for one in ASSUMPTIONS]
    heads = ["chip", "TB/s", "bf16 TFLOP/s", "multiprocessors", "L2 MiB", "memory GiB", "source"]
    return f"{_table(heads, facts)}\n\n{_table(['assumed', 'of what', 'source'], assumed)}"


def tables(phases: Mapping[str, Phase]) -> str:
    """Seconds by phase, and counts by phase."""
    whole = Phase(Seconds())
    for phase in phases.values():
        whole.seconds.add(phase.seconds)
        whole.tokens += phase.drawn
    parts = [one.name for one in fields(Seconds)]
    rows = [
        [
            name,
            *(f"{getattr(phase.seconds, part):.3f}" for part in parts),
            f"{phase.seconds.reached:.3f}",
            f"{phase.seconds.floor / phase.seconds.reached:.2f}",
            f"{phase.tokens / phase.seconds.floor:,.0f}",
            f"{phase.tokens / phase.seconds.reached:,.0f}",
        ]
        for name, phase in {**phases, "all": whole}.items()
    ]
    heads = ["seconds", *parts, "reach", "floor/reach", "tokens/s at floor", "tokens/s"]
    return f"{_table(heads, rows)}\n\n{_counts(phases)}"


def _counts(phases: Mapping[str, Phase]) -> str:
    rows = [
        [
            name,
            f"{phase.steps:,.0f}",
            f"{phase.mixed:,.0f}",
            *(
                f"{total / phase.steps:,.{digits}f}"
                for total, digits in (
                    (phase.tokens, 0),
                    (phase.in_graph, 0),
                    (phase.eager, 0),
                    (phase.programs, 0),
                    (phase.gigabytes, 2),
                    (phase.least_gigabytes, 2),
                    (phase.teraflops, 2),
                    (1e3 * phase.seconds.floor, 2),
                    (1e3 * phase.seconds.reached, 2),
                )
            ),
        ]
        for name, phase in phases.items()
    ]
    heads = [
        "per step",
        "steps",
        "mixed",
        "tokens",
        "launches in graphs",
        "others",
        "programs",
        "GB moved",
        "GB at least",
        "TFLOP",
        "floor ms",
        "reach ms",
    ]
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ruler, *rows))
