"""guidellm loads a server: it counts and times what the server's own metrics say.

Each figure is compared with the one that measures the same thing. Times are of requests of some
seconds, so that two clocks at the two ends of a connection agree within 2 %. The time to the first
token of a plain answer is too short for that, a few milliseconds, and is not compared.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import AsyncEngine
from gsr_engine.serving import Settings, create_app
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.live_server import live
from tests.helpers.scraped import Scraped
from tests.serving.tools.conftest import SERVED, Run, commands

pytestmark = [pytest.mark.tools, pytest.mark.xdist_group("guidellm")]

(COMMAND,) = commands("guidellm")
REFINED, PLAIN = "model=nano:selfref@4", "model=nano"
PROMPT, OUTPUT = 64, 800
WITHIN = 0.02
SLOW: dict[str, object] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 10,
    "max_position_embeddings": 4096,
}
"""A step of a few milliseconds, for requests of some seconds."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens are characters, so that prompts have exactly as many as asked for."""
    return make_checkpoint(tmp_path_factory.mktemp("guidellm") / "tiny", "qwen2", config=SLOW)


@pytest.fixture(scope="module")
def tiny(checkpoint: Path) -> Iterator[AsyncEngine]:
    engine = AsyncEngine.from_pretrained(checkpoint, threads=1, kv_cache_gib=0.2)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
def server(tiny: AsyncEngine) -> Iterator[str]:
    """The model with metrics of its own."""
    with live(create_app(tiny, settings=Settings(model_name="nano"))) as url:
        yield url


@dataclass(frozen=True)
class Report:
    """What guidellm measured."""

    benchmark: dict[str, Any]

    @property
    def requests(self) -> dict[str, int]:
        found: dict[str, int] = self.benchmark["metrics"]["request_totals"]
        return found

    def total(self, name: str) -> float:
        return float(self.benchmark["metrics"][name]["successful"]["total_sum"])

    def mean(self, name: str) -> float:
        return float(self.benchmark["metrics"][name]["successful"]["mean"])


def measure(
    run_tool: Run, server: str, folder: Path, checkpoint: Path, count: int, replaced: dict[str, str]
) -> Report:
    """Run the documented command, with fewer and shorter requests."""
    path = folder / "report.json"
    swaps = {
        SERVED: server,
        "FOLDER": str(checkpoint),
        "prompt_tokens=128": f"prompt_tokens={PROMPT}",
        "output_tokens=512": f"output_tokens={OUTPUT}",
        "count=100": f"count={count}",
        **replaced,
    }
    run_tool(COMMAND, swaps, "--output", f"kind=json,path={path}", "--disable-console")
    (benchmark,) = json.loads(path.read_text())["benchmarks"]
    return Report(benchmark)


def close(theirs: float, ours: float) -> bool:
    return theirs == pytest.approx(ours, rel=WITHIN)


def test_a_plain_answer_after_another(
    run_tool: Run, server: str, tmp_path: Path, checkpoint: Path
) -> None:
    swaps = {REFINED: PLAIN, "kind=poisson,rate=2": "kind=synchronous"}
    report = measure(run_tool, server, tmp_path, checkpoint, 4, swaps)
    metrics = Scraped(server)
    assert report.requests == {"successful": 4, "errored": 0, "incomplete": 0, "total": 4}
    assert metrics.total("gsr_requests_total") == 4
    assert metrics.total("gsr_requests_total", method="plain", outcome="length") == 4
    prompts, outputs = report.total("prompt_token_count"), report.total("output_token_count")
    assert prompts == metrics.total("gsr_prompt_tokens_total") >= 4 * PROMPT
    assert outputs == metrics.total("gsr_generated_tokens_total") == 4 * OUTPUT

    duration = "gsr_request_duration_seconds"
    assert close(report.mean("request_latency"), metrics.mean(duration))
    assert close(
        report.mean("inter_token_latency_ms"),
        1000 * metrics.mean("gsr_time_per_output_token_seconds"),
    )
    # One request at a time: the seconds of all requests are those of the whole run.
    assert close(
        report.mean("output_tokens_per_second"), outputs / metrics.total(f"{duration}_sum")
    )


def test_refinements_that_arrive_at_random(
    run_tool: Run, server: str, tmp_path: Path, checkpoint: Path
) -> None:
    report = measure(run_tool, server, tmp_path, checkpoint, 6, {})
    metrics = Scraped(server)
    assert report.requests == {"successful": 6, "errored": 0, "incomplete": 0, "total": 6}
    assert metrics.total("gsr_requests_total") == 6
    assert metrics.total("gsr_requests_total", method="selfref", outcome="length") == 6
    assert report.total("prompt_token_count") == metrics.total("gsr_prompt_tokens_total")
    outputs = metrics.total("gsr_generated_tokens_total")
    assert report.total("output_token_count") == outputs == 6 * OUTPUT
    # Four candidates and the refinement have equal shares.
    assert metrics.total("gsr_generated_tokens_total", phase="refinement") == outputs / 5

    assert close(report.mean("request_latency"), metrics.mean("gsr_request_duration_seconds"))
    assert close(
        report.mean("time_to_first_token_ms"),
        1000 * metrics.mean("gsr_time_to_first_refined_token_seconds"),
    )
