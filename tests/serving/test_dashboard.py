"""The Grafana dashboard asks for what `/metrics` has: names, labels and their values."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gsr_engine
from gsr_engine import AsyncEngine, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.serving.http.metrics import Metrics
from gsr_engine.serving.http.request_log import RequestLog
from gsr_engine.serving.http.watch import Watch

DASHBOARD = json.loads(
    (Path(gsr_engine.__file__).parent / "serving" / "http" / "dashboard.json").read_text()
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
PROMETHEUS_OWN = {"instance", "le"}
Samples = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Name to the labels of its samples, after one refinement and one plain request."""

    async def main() -> bytes:
        loaded = await asyncio.to_thread(AsyncEngine.from_pretrained, NANO, threads=1)
        async with loaded as engine:
            metrics, drawn = Metrics(engine, "nano"), SamplingParams(max_tokens=8)
            about: dict[str, Any] = {"route": "/v1/x", "request_id": "r", "streams": 2}
            problem = sample_puzzles("test", 5, 1)[0].problem
            params = SelfRefineParams(k=2, candidate=drawn, refine=drawn)
            for method, events in (
                ("selfref", engine.self_refine(problem, params)),
                ("plain", engine.generate(problem, drawn)),
            ):
                watch = Watch(metrics, RequestLog(), method=method, **about)
                async for event in events:
                    watch.event(event)
                watch.end("ok", 200, event.result.usage)
            return await metrics.render()

    found: Samples = {}
    for family in text_string_to_metric_families(asyncio.run(main()).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_query_finds_samples(expression: str, samples: Samples) -> None:
    selected = re.findall(r"(\w+)\{([^}]*)\}", expression)
    assert selected
    for name, matchers in selected:
        assert name in samples, name
        for label in re.findall(r"(\w+)=~", matchers):
            assert label in PROMETHEUS_OWN or all(label in one for one in samples[name]), label
    for group in re.findall(r"by \(([^)]*)\)", expression):
        for label in group.replace(" ", "").split(","):
            owners = [samples[name] for name, _ in selected]
            assert label == "instance" or all(label in one for own in owners for one in own), label
    assert expression.count("(") == expression.count(")")


def test_legends_and_variables_name_labels_that_are_there(samples: Samples) -> None:
    for panel in PANELS:
        for target in panel["targets"]:
            names = re.findall(r"(\w+)\{", target["expr"])
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert label in PROMETHEUS_OWN | samples[names[0]][0].keys(), target
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.findall(r"label_values\((\w+), (\w+)\)", variable["query"])[0]
            assert label in PROMETHEUS_OWN | samples[name][0].keys()


def test_nothing_that_is_measured_is_left_out(samples: Samples) -> None:
    asked = set(re.findall(r"\bgsr_\w+", " ".join(expressions())))
    measured = {re.sub(r"_(sum|count)$", "_bucket", name) for name in samples}
    assert measured == asked


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_page_on_operating_names_every_metric_and_no_other(samples: Samples) -> None:
    page = (Path(gsr_engine.__file__).parent / "serving" / "OPERATING.md").read_text()
    tables = "\n".join(line for line in page.splitlines() if line.startswith("| `gsr_"))
    named = set(re.findall(r"`(gsr_\w+)`", tables))
    assert named == {re.sub(r"_(sum|count|bucket)$", "", name) for name in samples}
    labels = {label for own in samples.values() for one in own for label in one}
    for label in labels - PROMETHEUS_OWN:
        assert f"`{label}`" in page, label
