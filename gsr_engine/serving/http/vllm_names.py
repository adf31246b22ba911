"""The names under which schedulers and dashboards for vLLM look for the same values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.samples import Sample

from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.serving.http.engine_metrics import MODEL

_ALIASES = {
    # A router weighs replicas by these two. One selfRef@8 is as much work as eight plain requests,
    # so they count streams.
    "gsr_streams_running": "vllm:num_requests_running",
    "gsr_streams_waiting": "vllm:num_requests_waiting",
    "gsr_kv_usage_ratio": "vllm:kv_cache_usage_perc",
    "gsr_preemptions": "vllm:num_preemptions",
    "gsr_prompt_tokens": "vllm:prompt_tokens",
    "gsr_generated_tokens": "vllm:generation_tokens",
    "gsr_prefix_cache_queried_tokens": "vllm:prefix_cache_queries",
    "gsr_prefix_cache_hit_tokens": "vllm:prefix_cache_hits",
    "gsr_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "gsr_time_per_output_token_seconds": "vllm:request_time_per_output_token_seconds",
    "gsr_request_queue_seconds": "vllm:request_queue_time_seconds",
    "gsr_request_duration_seconds": "vllm:e2e_request_latency_seconds",
}


def vllm_families(families: Iterable[Metric], model: str) -> Iterator[Metric]:
    """The families that vLLM has, too, under its names; labels of ours stay."""
    for family in families:
        if family.name in _ALIASES:
            yield _renamed(family, _ALIASES[family.name])
        elif family.name == "gsr_kv_pages":
            yield _cache_config(family, model)


def _renamed(family: Metric, name: str) -> Metric:
    alias = Metric(name, family.documentation, family.type)
    alias.samples = [
        sample._replace(name=name + sample.name.removeprefix(family.name))
        for sample in family.samples
    ]
    return alias


def _cache_config(pages: Metric, model: str) -> Metric:
    config = GaugeMetricFamily(
        "vllm:cache_config_info",
        "The KV pages, in the labels; always 1.",
        labels=[MODEL, "block_size", "num_gpu_blocks"],
    )
    samples: list[Sample] = pages.samples
    for sample in samples:
        config.add_metric([model, str(PAGE_SIZE), str(int(sample.value))], 1)
    return config
