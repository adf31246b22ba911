"""The serving benchmark with nano and few tokens: its fields are right; no test is timed."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.peers.run import PeerSkipped
from benchmarks.serving.__main__ import main
from benchmarks.serving.arrivals import Cell, arrivals, offer
from benchmarks.serving.methods import NotAnswered, Work, methods_of
from benchmarks.serving.overhead import Overhead
from benchmarks.serving.servers import Setting, metric, ours, vllm
from benchmarks.serving.table import arrivals_table, plot_arrivals
from gsr_engine import Engine, InvalidRequest
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.text.problem_prompts import ProblemPrompts

pytestmark = pytest.mark.slow

WORK = Work(k=2, candidate_tokens=6, refine_tokens=5)
PROBLEMS = [one.problem for one in sample_puzzles("test", 0, 4)]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(model=NANO, dtype="float32", threads=1, kv_gib=0.02, out=tmp_path)


def recorded(bodies: list[Any], replies: list[list[str]]) -> httpx.AsyncClient:
    """A client of a server that says what it is told to."""

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        texts = replies.pop(0)
        return httpx.Response(200, json={"choices": [{"message": {"content": t}} for t in texts]})

    return httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(reply))


def test_a_clients_loop_asks_what_the_engine_asks_itself() -> None:
    """Its two prompts are those of selfRef@k in the linear layout, to the last token."""
    _, loop = methods_of(NANO, WORK)
    bodies: list[Any] = []
    client = recorded(bodies, [["1", "2"], ["3"]])
    assert asyncio.run(loop.answer(client, PROBLEMS[0], seed=3)) == "3"
    with Engine.from_pretrained(NANO, kv_cache_gib=0.02) as engine:
        first, second = (engine.chat_prompt(body["messages"]) for body in bodies)
        prompts = ProblemPrompts(engine.prompts, PROBLEMS[0])
        assert first == prompts.direct
        encoded = [engine.tokenizer.encode_text(text) for text in ("1", "2")]
        assert second == prompts.linear(encoded)
    assert [body.get("n") for body in bodies] == [2, None]
    assert [body["max_tokens"] for body in bodies] == [6, 5]


def test_every_method_is_answered_by_a_real_server(setting: Setting) -> None:
    own, loop = methods_of(NANO, WORK)
    assert [one.layout for one in own] == ["linear", "branched"]
    for method in (own[1], loop):
        cell = offer(partial(ours, setting), method.name, method, PROBLEMS, rate=50.0)
        assert len(cell.seconds) == 3  # the fourth problem warms the server up
        assert 0 < cell.percentile(50) <= cell.percentile(95) <= cell.elapsed
        assert cell.peak_pages >= 2


def test_a_refused_request_is_no_answer() -> None:
    client = httpx.AsyncClient(
        base_url="http://x", transport=httpx.MockTransport(lambda _: httpx.Response(503, text="no"))
    )
    with pytest.raises(NotAnswered, match="status 503: no"):
        asyncio.run(methods_of(NANO, WORK)[1].answer(client, "1", seed=0))


def test_arrivals_have_their_rate_and_are_the_same_for_everybody() -> None:
    moments = arrivals(4.0, 4000, seed=1)
    assert moments == arrivals(4.0, 4000, seed=1) == sorted(moments)
    assert moments[0] == 0.0
    assert 4000 / moments[-1] == pytest.approx(4.0, rel=0.05)
    assert arrivals(0.0, 3, seed=1) == [0.0] * 3


def test_a_metric_is_found_by_its_whole_name() -> None:
    text = '# HELP pages x\npages_peak{model_name="a"} 7.0\npages 3.5\n'
    assert (metric(text, "pages"), metric(text, "pages_peak")) == (3.5, 7.0)
    assert metric(text, "pag") is None


def test_a_server_that_does_not_start_is_named(setting: Setting, tmp_path: Path) -> None:
    broken = Setting(model=tmp_path / "none", dtype="float32", threads=1, kv_gib=0.02, out=tmp_path)
    with pytest.raises(PeerSkipped, match=r"did not start, see .*ours\.log"), ours(broken):
        pass
    assert "none" in (tmp_path / "ours.log").read_text()


def test_vllm_is_skipped_by_name_where_it_is_missing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.serving.servers.python_of", lambda _: tmp_path / "none")
    with pytest.raises(PeerSkipped, match=r"python -m benchmarks\.peers\.install vllm"):
        vllm(setting, 2048)


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    cells = [
        Cell(method, rate, [1.0, 2.0, 3.0], 6.0, pages)
        for rate in (0.5, 1.0)
        for method, pages in (("one", 10), ("two", 20))
    ]
    assert (cells[0].percentile(50), cells[0].answers_per_second) == (2.0, 0.5)
    assert arrivals_table(cells).row_count == 4
    plot_arrivals(cells, "a title", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_what_http_costs() -> None:
    overhead = Overhead(100, inside=1.0, outside=2.0, first_inside=0.010, first_outside=0.013)
    assert overhead.throughput == 0.5
    assert overhead.first_ms == pytest.approx(3.0)


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        model=None,
        only="overhead",
        count=2,
        candidate_tokens=4,
        refine_tokens=4,
        requests=2,
        tokens=3,
        looks=2,
        rounds=1,
        dtype="float32",
        threads=1,
        kv_gib=0.02,
        out=tmp_path,
    )
    assert "ms to the first token" in capsys.readouterr().out
    found = json.loads((tmp_path / "serving.json").read_text())
    assert found["overhead"]["tokens"] == 6
    assert all(value > 0 for value in found["overhead"].values())
    with pytest.raises(InvalidRequest, match=r"only: .* 'speed'"):
        main(only="speed")
