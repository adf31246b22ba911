"""Systems over HTTP: what is asked, what is read of a stream, and how a server's error is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.latency.cell import Streams
from benchmarks.latency.chat_client import Chat
from benchmarks.latency.http_methods import ClientsLoop, Method, OneRequest
from benchmarks.latency.http_system import HttpAnswerer, HttpSystem
from benchmarks.latency.systems import Setup, systems
from benchmarks.latency.timed_answer import Moments, TimedAnswer
from benchmarks.peers.run import PeerSkipped
from benchmarks.peers.servers import NotAnswered, Setting, metric, ours, vllm
from gsr_engine import Engine
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.report import NANO
from gsr_engine.text.problem_prompts import ProblemPrompts
from tests.helpers.live_server import live
from tests.helpers.scripted_chat import (
    BEGIN,
    END,
    KEEP_ALIVE,
    ScriptedChat,
    candidate,
    candidate_done,
    chunk,
    costs,
    refinement_begins,
    refinement_done,
)

STREAMS = Streams(k=2, candidate=6, refine=5, fixed=False)
LOOP = ClientsLoop()


def usage(tokens: int) -> str:
    """The last chunk of a stream."""
    return f'data: {{"choices": [], "usage": {{"completion_tokens": {tokens}}}}}\n\n'


def said(text: str, index: int = 0, end: str | None = None, name: str = "content") -> str:
    """One chunk of a choice."""
    choice = {"index": index, "delta": {name: text}, "finish_reason": end}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


class Server:
    """Streams what it is told to, reply by reply; the bodies that came are kept."""

    url = "http://made"

    def __init__(self, *replies: Sequence[str] | httpx.Response | Exception) -> None:
        self._replies = list(replies)
        self.bodies: list[dict[str, Any]] = []

    def _reply(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(json.loads(request.content))
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, httpx.Response):
            return reply
        return httpx.Response(200, text="".join(reply))

    async def pages_used(self, client: httpx.AsyncClient) -> None:
        return None

    def answer(
        self, method: Method, streams: Streams = STREAMS, salted: bool = False
    ) -> TimedAnswer:
        """Ask one problem; the clock goes on by one at every look."""
        ticks = iter(range(100))
        moments = Moments(streams.k, 0.0, lambda: float(next(ticks)))
        client = httpx.AsyncClient(base_url=self.url, transport=httpx.MockTransport(self._reply))
        chat = Chat(client, "served", GsrConfig.from_folder(NANO), salted)
        answerer = HttpAnswerer(chat, method, streams, self)
        return asyncio.run(answerer.answer("a1b1×₁2", 3, moments))


DRAWN = [said("7", 1), said("12"), said("", 1, "stop"), said("", 0, "stop"), usage(6)]
REFINED = [said("1"), said("2"), said("", 0, "stop"), usage(4)]


def test_a_clients_loop_reads_moments_and_tokens_of_both_streams() -> None:
    server = Server(DRAWN, REFINED)
    answer = server.answer(LOOP)
    assert (answer.firsts, answer.lasts) == ([1.0, 0.0], [3.0, 2.0])
    assert (answer.refined_first, answer.refined_last) == (4.0, 6.0)
    assert (answer.candidate_tokens, answer.refine_tokens) == (6, 4)
    assert answer.computed_tokens is None  # such a server does not tell
    drawn, refined = server.bodies
    assert (drawn["n"], drawn["seed"], drawn["temperature"]) == (2, 3, 1.0)
    assert ("n" in refined, refined["temperature"]) == (False, 0.0)
    assert all("min_tokens" not in one and "cache_salt" not in one for one in server.bodies)


def test_a_clients_loop_asks_what_the_engine_asks_itself() -> None:
    """Its two prompts are those of selfRef@k in the linear layout, to the last token."""
    server = Server([said("1"), said("2", 1), usage(2)], [said("3"), usage(1)])
    server.answer(LOOP)
    with Engine.from_pretrained(NANO, kv_cache_gib=0.02) as engine:
        first, second = (engine.chat_prompt(body["messages"]) for body in server.bodies)
        prompts = ProblemPrompts(engine.prompts, "a1b1×₁2")
        assert first == prompts.direct
        assert second == prompts.linear([engine.tokenizer.encode_text(text) for text in ("1", "2")])


def test_thinking_is_shown_only_where_lengths_are_fixed() -> None:
    drawn = [said("Hm.", 0, name="reasoning_content"), said("12"), said("7", 1), usage(12)]
    fixed = Streams(k=2, candidate=6, refine=5, fixed=True)
    for streams, shown in ((STREAMS, False), (fixed, True)):
        server = Server(drawn, [said("1"), usage(5)])
        server.answer(LOOP, streams)
        assert ("Hm." in server.bodies[1]["messages"][0]["content"]) is shown
    assert server.bodies[0]["min_tokens"] == 6


def test_one_request_reads_the_events_of_its_stream() -> None:
    stream = [
        *(BEGIN, KEEP_ALIVE, candidate(1, "7"), candidate(0, "8"), candidate(1, "7")),
        *(candidate_done(1, "77", 1), candidate_done(0, None, None), refinement_begins()),
        *(chunk({"content": "9"}), refinement_done("9", None), costs(), END),
    ]
    server = Server(stream)
    answer = server.answer(OneRequest("branched", forced=False), salted=True)
    assert (answer.firsts, answer.lasts) == ([1.0, 0.0], [4.0, 3.0])
    assert (answer.refined_first, answer.refined_last) == (5.0, 6.0)
    assert (answer.candidate_tokens, answer.refine_tokens) == (490, 7)
    assert answer.computed_tokens == 1061 + 396 + 438 + 97
    assert (answer.candidate_answers, answer.answer) == ([None, "77"], "9")
    (body,) = server.bodies
    assert (body["gsr"]["layout"], body["gsr"]["k"], body["gsr"]["stream"]) == (
        "branched",
        2,
        "all",
    )
    assert "cache_salt" in body
    assert body["gsr"]["candidate"] == {"temperature": 1.0, "max_tokens": 6}


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ([httpx.Response(503, text="full")], r"http://made/v1/chat/completions: status 503: full"),
        ([httpx.ConnectError("refused")], r"http://made/v1/chat/completions: ConnectError"),
        ([['data: {"error": {"message": "lost"}}\n\n']], r"http://made/.*: .*lost"),
        ([["data: {oops\n\n"]], r"http://made/.*: no JSON"),
        ([DRAWN[:-1]], r"http://made/.*: a stream without usage"),
        ([[said("1"), usage(1)], REFINED], r"nothing came of candidate 2: is n of 2 known\?"),
        ([[said("1", 5), usage(1)]], r"http://made/.*: its stream is not of OpenAI's form"),
        ([['data: {"choices": [{}]}\n\n', usage(1)], REFINED], "nothing came of candidate 1"),
    ],
)
def test_an_error_names_the_server(replies: list[Any], message: str) -> None:
    with pytest.raises(NotAnswered, match=message):
        Server(*replies).answer(LOOP)


def test_a_server_that_ignores_fixed_lengths_is_named() -> None:
    fixed = Streams(k=2, candidate=6, refine=5, fixed=True)
    with pytest.raises(NotAnswered, match=r"6 and 4 tokens came, 12 and 5 .* min_tokens"):
        Server(DRAWN, REFINED).answer(LOOP, fixed)


def setup_of(tmp_path: Path, engine: Any) -> Setup:
    return Setup(
        engine=engine,
        front=engine,
        setting=Setting(model=NANO, dtype="float32", threads=1, kv_gib=0.02, out=tmp_path),
        layouts=("linear", "branched"),
        longest=256,
        most_at_once=2,
    )


def test_an_endpoint_says_whether_it_knows_gsr(tmp_path: Path) -> None:
    chat = ScriptedChat(name="acme/large")
    with Engine.from_pretrained(NANO, kv_cache_gib=0.02) as engine, live(chat.app()) as url:
        found = systems([], f"{url}/v1/", setup_of(tmp_path, engine))
        names = [one.name.removeprefix(url) for one in found]
        assert names == [", linear", ", branched", ", client's loop"]
        with pytest.raises(NotAnswered, match=r"endpoint: http://127.0.0.1:1/v1/models"):
            systems([], "http://127.0.0.1:1", setup_of(tmp_path, engine))
        with pytest.raises(NotAnswered, match=r"endpoint: not an address"):
            systems([], "not an address", setup_of(tmp_path, engine))


def test_a_key_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def start() -> Any:
        return nullcontext(Server())

    system = HttpSystem("made", start, "m", GsrConfig.from_folder(NANO), LOOP, key="secret")

    async def ask() -> None:
        async with system.open(STREAMS) as answerer:
            seen.append(answerer.chat.client.headers.get("authorization"))

    asyncio.run(ask())
    assert seen == ["Bearer secret"]


def test_a_metric_is_found_by_its_whole_name() -> None:
    text = '# HELP pages x\npages_peak{model_name="a"} 7.0\npages 3.5\n'
    assert (metric(text, "pages"), metric(text, "pages_peak")) == (3.5, 7.0)
    assert metric(text, "pag") is None


@pytest.mark.slow
def test_a_server_that_does_not_start_is_named(tmp_path: Path) -> None:
    setting = Setting(
        model=tmp_path / "none", dtype="float32", threads=1, kv_gib=0.02, out=tmp_path
    )
    with pytest.raises(PeerSkipped, match=r"did not start, see .*ours\.log"), ours(setting):
        pass
    assert "none" in (tmp_path / "ours.log").read_text()


def test_vllm_is_skipped_by_name_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.peers.servers.python_of", lambda _: tmp_path / "none")
    setting = Setting(model=NANO, dtype="float32", threads=1, kv_gib=0.02, out=tmp_path)
    with pytest.raises(PeerSkipped, match=r"python -m benchmarks\.peers\.install vllm"):
        vllm(setting, 2048)
