"""`/metrics`: names, values, registries, and a scrape that disturbs nobody."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as text_metrics

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Final,
    InvalidRequest,
    PhaseStarted,
    RefineResult,
    RefineToken,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.serving.http.metrics import Metrics, metrics_routes
from gsr_engine.serving.http.request_log import RequestLog
from gsr_engine.serving.http.watch import Watch
from tests.helpers.clock import Clock

PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("test", 5, 3)]
PARAMS = SelfRefineParams(
    k=3,
    seed=1,
    candidate=SamplingParams(max_tokens=20),
    refine=SamplingParams(max_tokens=20, temperature=0.0),
)
UNITS = ("seconds", "tokens", "pages", "ratio", "info")


@asynccontextmanager
async def nano(**options: Any) -> AsyncIterator[AsyncEngine]:
    loaded = await asyncio.to_thread(AsyncEngine.from_pretrained, NANO, threads=1, **options)
    async with loaded as engine:
        yield engine


def values(content: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of a page of metrics by name and labels, without the model's."""
    return {
        (
            sample.name,
            frozenset(set(sample.labels.items()) - {("model_name", "nano")}),
        ): sample.value
        for family in text_metrics(content.decode())
        for sample in family.samples
    }


def total(content: bytes, name: str) -> float:
    """Over all labels."""
    return sum(number for (known, _), number in values(content).items() if known == name)


def value(content: bytes, name: str, **labels: str) -> float:
    return values(content)[name, frozenset(labels.items())]


async def refine(engine: AsyncEngine, watch: Watch, problem: str, **more: Any) -> RefineResult:
    async for event in engine.self_refine(problem, PARAMS, **more):
        watch.event(event)
    assert isinstance(event, Final)
    watch.end("ok", 200, event.result.usage)
    return event.result


def watched(metrics: Metrics, **more: Any) -> Watch:
    about: dict[str, Any] = {
        "route": "/v1/chat/completions",
        "method": "selfref",
        "request_id": "r1",
        "streams": 3,
    }
    return Watch(metrics, RequestLog(), **{**about, **more})


def test_counts_of_tokens_and_requests_are_the_engines() -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics = Metrics(engine, "nano")
            results = await asyncio.gather(
                *(refine(engine, watched(metrics), one) for one in PROBLEMS)
            )
            content = await metrics.render()
            stats = await engine.stats()
        drawn = [
            sum(len(one.token_ids) for result in results for one in streams(result))
            for streams in (lambda r: r.candidates, lambda r: r.rounds[-1])
        ]
        written = "gsr_generated_tokens_total"
        assert value(content, written, phase="candidate") == drawn[0]
        assert value(content, written, phase="refinement") == drawn[1]
        assert sum(drawn) == sum(result.usage.completion_tokens for result in results)
        prompts = sum(result.usage.prompt_tokens for result in results)
        assert value(content, "gsr_prompt_tokens_total", method="selfref") == prompts
        assert value(
            content,
            "gsr_requests_total",
            route="/v1/chat/completions",
            method="selfref",
            outcome="ok",
            status="200",
        ) == len(PROBLEMS)
        for name in ("request_duration", "request_queue", "time_to_first_refined_token"):
            count = value(content, f"gsr_{name}_seconds_count", method="selfref")
            assert count == len(PROBLEMS)
        for phase, streams in (("candidate", 9), ("refinement", 3)):
            count = value(content, "gsr_time_per_output_token_seconds_count", phase=phase)
            assert count == streams
            assert value(content, "gsr_phase_duration_seconds_count", phase=phase) == 3
        for phase, counts in stats["phases"].items():
            computed = value(content, "gsr_computed_tokens_total", phase=phase)
            reused = [
                value(content, "gsr_reused_tokens_total", phase=phase, source=source)
                for source in ("cache", "prompt", "candidates")
            ]
            assert computed == counts["tokens_computed"]
            assert sum(reused) == counts["tokens_reused"]
        assert value(content, "gsr_kv_pages") == stats["pages_total"]
        assert value(content, "gsr_kv_pages_used") == 0
        assert value(content, "gsr_kv_pages_peak") == stats["pages_peak"] > 0
        assert value(content, "gsr_engine_steps_total") == stats["steps"]

    asyncio.run(main())


def test_streams_are_counted_beside_groups_while_they_run() -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics = Metrics(engine, "nano")
            long = SelfRefineParams(k=3, candidate=SamplingParams(max_tokens=200, ignore_eos=True))
            events = engine.self_refine(PROBLEMS[0], long)
            async for event in events:
                if isinstance(event, CandidateToken):
                    break
            content = await metrics.render()
            await events.aclose()
            after = await metrics.render()
        assert value(content, "gsr_requests_running") == 1
        assert value(content, "gsr_streams_running") == 3
        assert value(content, "gsr_kv_pages_used") > 0
        assert 0 < value(content, "gsr_kv_usage_ratio") < 1
        assert value(after, "gsr_streams_running") == value(after, "gsr_kv_pages_used") == 0

    asyncio.run(main())


def test_candidates_that_a_client_brings_are_not_counted_as_generated() -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics = Metrics(engine, "nano")
            watch = watched(metrics, given=True, streams=2)
            result = await refine(engine, watch, PROBLEMS[0], candidates=["12", "13"])
            content = await metrics.render()
        written = "gsr_generated_tokens_total"
        refined = value(content, written, phase="refinement")
        assert refined == result.usage.completion_tokens == len(result.rounds[0][0].token_ids)
        assert (written, frozenset({("phase", "candidate")})) not in values(content)

    asyncio.run(main())


def test_times_are_taken_from_the_events() -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics, clock = Metrics(engine, "nano"), Clock()
            watch = watched(metrics, clock=clock)
            story = [
                (1.0, PhaseStarted("candidates", 0)),
                (2.0, CandidateToken(0, (5,), "a")),
                (3.0, CandidateToken(0, (6, 7), "bc")),
                (5.0, CandidateToken(1, (8, 9), "de")),  # together: no time per token
                (6.0, PhaseStarted("refinement", 1)),
                (8.0, RefineToken(1, 0, (5,), "a")),
                (8.5, RefineToken(1, 0, (6,), "b")),
            ]
            for seconds, event in story:
                clock.now = 100.0 + seconds
                watch.event(event)
            clock.now = 110.0
            watch.end("length", 200)
            content = await metrics.render()
        sums = {
            ("request_duration", "method", "selfref"): 10.0,
            ("time_to_first_token", "method", "selfref"): 2.0,
            ("time_to_first_refined_token", "method", "selfref"): 8.0,
            ("phase_duration", "phase", "candidate"): 5.0,
            ("phase_duration", "phase", "refinement"): 4.0,
            ("time_per_output_token", "phase", "candidate"): 0.5,
            ("time_per_output_token", "phase", "refinement"): 0.5,
        }
        for (name, label, of), expected in sums.items():
            assert value(content, f"gsr_{name}_seconds_sum", **{label: of}) == expected, name

    asyncio.run(main())


def test_requests_without_an_answer_are_counted_and_not_timed() -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics = Metrics(engine, "nano")
            watched(metrics).end("refused", 400, error="k: is 1000000")
            watched(metrics).end("unavailable", 503)
            content = await metrics.render()
        counted = {
            dict(labels)["outcome"]: dict(labels)["status"]
            for name, labels in values(content)
            if name == "gsr_requests_total"
        }
        assert counted == {"refused": "400", "unavailable": "503"}
        assert not any(name == "gsr_request_duration_seconds_count" for name, _ in values(content))

    asyncio.run(main())


def test_names_have_units_and_suffixes_and_colons_only_in_the_aliases() -> None:
    async def main() -> tuple[bytes, bytes]:
        async with nano() as engine:
            plain, aliased = Metrics(engine, "nano"), Metrics(engine, "nano", vllm=True)
            for metrics in (plain, aliased):
                await refine(engine, watched(metrics), PROBLEMS[0])
            return await plain.render(), await aliased.render()

    plain, aliased = asyncio.run(main())
    families = list(text_metrics(plain.decode()))
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"gsr_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        named = {sample.name for sample in family.samples}
        assert all(name.endswith("_total") == (family.type == "counter") for name in named)
        assert not any(name.endswith("_created") for name in named)
        assert all(sample.labels["model_name"] == "nano" for sample in family.samples)
    theirs = {name for name, _ in values(aliased)} - {name for name, _ in values(plain)}
    assert theirs
    assert all(name.startswith("vllm:") for name in theirs)
    assert theirs >= {
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:cache_config_info",
        "vllm:prefix_cache_hits_total",
        "vllm:generation_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
    }
    pages = value(aliased, "gsr_kv_pages")
    labels = {"block_size": str(PAGE_SIZE), "num_gpu_blocks": str(int(pages))}
    assert value(aliased, "vllm:cache_config_info", **labels) == 1
    for ours, alias in (
        ("streams_running", "num_requests_running"),
        ("prompt_tokens_total", "prompt_tokens_total"),
    ):
        assert total(aliased, f"gsr_{ours}") == total(aliased, f"vllm:{alias}")


def test_the_format_is_the_one_that_keeps_colons() -> None:
    """Prometheus asks for OpenMetrics first."""

    async def main() -> None:
        async with nano() as engine:
            app = FastAPI()
            app.include_router(metrics_routes(Metrics(engine, "nano", vllm=True)))
            headers = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                response = await client.get("/metrics", headers=headers)
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert value(response.content, "vllm:kv_cache_usage_perc") == 0

    asyncio.run(main())


def test_two_engines_need_two_registries() -> None:
    async def main() -> None:
        async with nano(kv_cache_gib=0.01) as one, nano(kv_cache_gib=0.02) as two:
            mine = CollectorRegistry()
            first, second = Metrics(one, "one", mine), Metrics(two, "two")
            with pytest.raises(InvalidRequest, match="registry"):
                Metrics(two, "two", mine)
            pages = [
                sample.value
                for metrics in (first, second)
                for family in text_metrics((await metrics.render()).decode())
                for sample in family.samples
                if sample.name == "gsr_kv_pages"
            ]
            assert pages == [(await engine.stats())["pages_total"] for engine in (one, two)]
            assert len(set(pages)) == 2

    asyncio.run(main())


def test_a_host_exposes_its_registry_by_itself() -> None:
    async def main() -> None:
        async with nano() as engine:
            registry = CollectorRegistry(auto_describe=True)
            metrics = Metrics(engine, "nano", registry)
            # In a thread without an event loop it may wait, so it shows what is.
            content = await asyncio.to_thread(generate_latest, registry)
            assert value(content, "gsr_kv_pages") > 0
            # In an event loop it may not: it shows what was, and looks for the next time.
            metrics = Metrics(engine, "nano")
            first = generate_latest(metrics.registry)
            assert not any(name == "gsr_kv_pages" for name, _ in values(first))
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if any(n == "gsr_kv_pages" for n, _ in values(generate_latest(metrics.registry))):
                    break
            else:
                pytest.fail("the second scrape shows nothing")

    asyncio.run(main())


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opens at the end whatever happens, so that no engine is stuck."""
    opened = threading.Event()
    yield opened
    opened.set()


def test_a_scrape_does_not_wait_for_a_long_step(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with nano() as engine:
            metrics = Metrics(engine, "nano")
            before = await metrics.render()
            monkeypatch.setattr("gsr_engine.serving.http.metrics.PATIENCE", 0.05)
            stuck = engine.loop.call(gate.wait)
            during = await asyncio.wait_for(metrics.render(), 30)
            assert not stuck.done()
            gate.set()
            await asyncio.wrap_future(stuck)
        assert value(during, "gsr_kv_pages") == value(before, "gsr_kv_pages")
        after = await metrics.render()
        assert value(before, "gsr_engine_up") == value(during, "gsr_engine_up") == 1
        assert value(after, "gsr_engine_up") == 0

    asyncio.run(main())
