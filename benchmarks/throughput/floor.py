"""The limit of a layout: the seconds of the matrix products of its steps, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.throughput.machine_limits import Limits


def product_seconds(
    phase_tokens: Mapping[str, int], limits: Limits, streams: Mapping[str, int]
) -> dict[str, float]:
    """Seconds of the products alone, by phase: "candidates" and "refine".

    Args:
        phase_tokens: tokens that each phase of a layout computed, as `Usage` names the phases.
        limits: with steps of these numbers of streams.
        streams: rows of a decode step, by phase.
    """
    per_step = {step.rows: step.seconds for step in limits.products}
    per_token = limits.prefill.seconds / limits.prefill.rows
    seconds = {}
    for name, phase in (("candidates", "candidate"), ("refine", "refine")):
        rows = streams[name]
        seconds[name] = (
            phase_tokens[f"{phase}_prefill"] * per_token
            + phase_tokens[f"{phase}_decode"] * per_step[rows] / rows
        )
    return seconds
