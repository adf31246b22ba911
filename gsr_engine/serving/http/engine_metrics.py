"""What an engine counts, as families of Prometheus: `Engine.stats` under the names of `gsr_*`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gsr_engine import __version__
from gsr_engine.kv.segments import PAGE_SIZE

MODEL = "model_name"
"""The label that every family has; vLLM calls it so, too."""

_GAUGES = {
    "gsr_requests_running": ("requests_running", "Requests (groups) that hold KV pages."),
    "gsr_requests_waiting": ("requests_waiting", "Requests (groups) that wait for KV pages."),
    "gsr_streams_running": ("streams_running", "Streams that are being generated."),
    "gsr_streams_waiting": ("streams_waiting", "Streams of requests that wait, and paused ones."),
    "gsr_kv_pages": ("pages_total", f"KV pages of the pool, {PAGE_SIZE} tokens each."),
    "gsr_kv_pages_used": ("pages_used", "KV pages that requests hold."),
    "gsr_kv_pages_cached": ("pages_cached", "KV pages that only the prefix cache holds."),
    "gsr_kv_pages_peak": ("pages_peak", "The most KV pages that requests held at once."),
}
_COUNTERS = {
    "gsr_engine_steps": ("steps", "Steps of the engine."),
    "gsr_engine_busy_seconds": ("busy_seconds", "Seconds in which the engine computed."),
    "gsr_preemptions": ("preemptions", "Requests preempted and streams paused for want of pages."),
}
_CACHE_COUNTERS = {
    "gsr_prefix_cache_queried_tokens": ("queried_tokens", "Prompt tokens looked up in the cache."),
    "gsr_prefix_cache_hit_tokens": ("hit_tokens", "Those of them whose KV was found."),
}
_REUSED = ("cache", "prompt", "candidates")


def engine_families(stats: Mapping[str, Any], model: str) -> Iterator[Metric]:
    """The families of one look at an engine; without samples where the look is empty."""
    for name, (key, text) in _GAUGES.items():
        yield _family(GaugeMetricFamily, name, text, model, stats.get(key))
    for name, (key, text) in _COUNTERS.items():
        yield _family(CounterMetricFamily, name, text, model, stats.get(key))
    cache = stats.get("prefix_cache") or {}
    for name, (key, text) in _CACHE_COUNTERS.items():
        yield _family(CounterMetricFamily, name, text, model, cache.get(key))
    usage = None
    if stats.get("pages_total"):
        usage = stats["pages_used"] / stats["pages_total"]
    share = "Share of the KV pages that requests hold."
    yield _family(GaugeMetricFamily, "gsr_kv_usage_ratio", share, model, usage)
    yield _info(stats, model)
    yield from _phases(stats.get("phases", {}), model)


def _info(stats: Mapping[str, Any], model: str) -> Metric:
    keys = ("dtype", "quantization")
    info = GaugeMetricFamily(
        "gsr_engine_info", "The engine, in its labels; always 1.", labels=[MODEL, "version", *keys]
    )
    if stats:
        info.add_metric([model, __version__, *(stats[key] for key in keys)], 1)
    return info


def _phases(phases: Mapping[str, Mapping[str, float]], model: str) -> Iterator[Metric]:
    computed = CounterMetricFamily(
        "gsr_computed_tokens", "Tokens that went through the model.", labels=[MODEL, "phase"]
    )
    seconds = CounterMetricFamily(
        "gsr_phase_busy_seconds",
        "Seconds of the engine, shared out by tokens.",
        labels=[MODEL, "phase"],
    )
    reused = CounterMetricFamily(
        "gsr_reused_tokens",
        "Tokens whose KV was shared instead of computed, by where it came from.",
        labels=[MODEL, "phase", "source"],
    )
    for phase, counts in phases.items():
        computed.add_metric([model, phase], counts["tokens_computed"])
        seconds.add_metric([model, phase], counts["seconds"])
        for source in _REUSED:
            reused.add_metric([model, phase, source], counts[f"reused_{source}"])
    yield from (computed, seconds, reused)


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    model: str,
    value: float | None,
) -> Metric:
    """A family of one sample, or of none if its value is not known."""
    family = kind(name, text, labels=[MODEL])
    if value is not None:
        family.add_metric([model], value)
    return family
