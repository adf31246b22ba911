"""Keys, the longest body, a full queue, deadlines, the end of a server, and errors in one form."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from gsr_engine import AsyncEngine, InvalidRequest
from gsr_engine.cli.serve import serve
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.serving import Keys, Settings, create_app
from gsr_engine.serving.http.app import app_of, make_server
from gsr_engine.serving.http.chat import ChatBody
from gsr_engine.serving.http.completions import CompletionBody
from gsr_engine.serving.http.fields import Body
from gsr_engine.serving.http.service import bind
from gsr_engine.serving.http.sse import event
from gsr_engine.serving.http.tokens import DetokenizeBody, TokenizeBody
from tests.helpers.live_server import events, live, stream, until

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": sample_puzzles("test", 3, 2)[0].problem}]
JSON = {"Content-Type": "application/json"}
OPEN = {"/health", "/ready", "/metrics"}
ENDLESS = {"messages": MESSAGES, "ignore_eos": True, "seed": 0}


@contextmanager
def client_of(engine: AsyncEngine, **options: Any) -> Iterator[httpx.Client]:
    with (
        live(create_app(engine, **options)) as url,
        httpx.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def routes_of(client: httpx.Client, headers: dict[str, str]) -> list[tuple[str, str]]:
    described = client.get("/openapi.json", headers=headers).json()["paths"]
    routes = [(method, path) for path, methods in described.items() for method in methods]
    return [*routes, ("get", "/openapi.json"), ("get", "/")]


def test_every_route_but_three_needs_a_key(nano: AsyncEngine) -> None:
    with client_of(nano, auth=["first", "second"]) as client:
        key = {"Authorization": "Bearer second"}
        routes = routes_of(client, key)
        assert len(routes) > 10
        for method, path in routes:
            for bad in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first"}):
                response = client.request(method, path, headers=bad)
                if path in OPEN:
                    assert response.status_code == 200
                    continue
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"
                if path != "/":
                    assert response.json()["error"]["type"] == "authentication_error"
            assert client.request(method, path, headers=key).status_code in (200, 400), path
        # A wrong key is known before the body is read, and no answer tells what would be right.
        huge = client.post(PATH, content=b"{" * 9_000_000)
        assert (huge.status_code, "first" in huge.text) == (401, False)


def test_keys_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nfirst\n\n  second \n")
    keys = Keys.from_file(file)
    monkeypatch.setenv("GSR_API_KEYS", "first, second")
    theirs = Keys.from_environment()
    assert theirs is not None
    salts = {keys.salt("Bearer first"), theirs.salt("bearer first")}
    assert len(salts) == 1
    assert None not in salts
    assert keys.salt("Bearer second") not in {None, *salts}
    assert keys.salt("Bearer third") is keys.salt("first") is keys.salt(None) is None
    assert "first" not in repr(vars(keys))
    monkeypatch.delenv("GSR_API_KEYS")
    assert Keys.from_environment() is None
    for bad in ([], [""], ["with space"], ["schlüssel"]):
        with pytest.raises(InvalidRequest, match=r"^auth: "):
            Keys(bad)
    file.write_text("# none\n")
    with pytest.raises(InvalidRequest, match=r"^auth: "):
        Keys.from_file(file)
    with pytest.raises(InvalidRequest, match=r"^auth: "):
        Keys.from_file(tmp_path / "missing")


def test_keys_do_not_share_cached_prefixes(nano: AsyncEngine) -> None:
    asked = {"messages": [{"role": "user", "content": "g1g₁²g₁2" * 5}], "max_tokens": 1}

    def cached(client: httpx.Client, key: str, **fields: Any) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        body = client.post(PATH, json={**asked, **fields}, headers=headers).json()
        count: int = body["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    with client_of(nano, auth=["first", "second"]) as client:
        assert cached(client, "first") == 0
        assert cached(client, "first") > 0
        assert cached(client, "second") == 0
        assert cached(client, "first", cache_salt="mine") == 0
        assert cached(client, "first", cache_salt="mine") > 0


def test_a_body_that_is_too_long_is_not_read_to_its_end(nano: AsyncEngine) -> None:
    with client_of(nano, settings=Settings(max_body_bytes=1000)) as client:
        response = client.post(PATH, content=b"x" * 1001)
        assert response.status_code == 413
        assert response.json()["error"]["type"] == "request_too_large"
        short = {"messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
        assert client.post(PATH, json=short).status_code == 200


def test_a_body_has_two_mib_unless_told_otherwise(api: httpx.Client) -> None:
    room = Settings().max_body_bytes
    assert room == 2 << 20
    flags = inspect.signature(serve).parameters
    assert flags["max_body_bytes"].default == room
    body = json.dumps({"messages": MESSAGES, "max_tokens": 1}).encode()
    for length, status in ((room, 200), (room + 1, 413)):
        response = api.post(PATH, content=body.ljust(length), headers=JSON)
        assert response.status_code == status


def test_caps_of_the_server_hold_for_every_stream(nano: AsyncEngine) -> None:
    settings = Settings(max_tokens=7, max_k=3, default_k=2, max_n=2)
    with client_of(nano, settings=settings) as client:
        for fields, param in (
            ({"max_tokens": 8}, "max_tokens"),
            ({"gsr": {"candidate": {"max_tokens": 8}}}, "max_tokens"),
            ({"gsr": {"k": 4}}, "gsr.k"),
            ({"n": 3}, "n"),
        ):
            response = client.post(PATH, json={**ENDLESS, **fields})
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)
        assert client.post(PATH, json=ENDLESS).json()["usage"]["completion_tokens"] == 7
        refined = client.post(PATH, json={**ENDLESS, "gsr": {"view": "full"}}).json()
        assert refined["usage"]["completion_tokens"] == 21


def test_a_full_queue_and_the_end_of_a_server_send_clients_elsewhere() -> None:
    engine = AsyncEngine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05, max_pending=2)
    server = make_server(engine)
    with (
        live(app_of(server)) as url,
        httpx.Client(base_url=url, timeout=120) as client,
        ExitStack() as open_streams,
    ):
        asked = {**ENDLESS, "stream": True, "n": 64}  # it takes longer than what follows
        running = [
            open_streams.enter_context(client.stream("POST", PATH, json=asked)) for _ in range(2)
        ]
        for fields in ({}, {"stream": True}, {"gsr": {}}):
            response = client.post(PATH, json={**ENDLESS, **fields})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["type"] == "queue_full"
        running.pop().close()
        until(lambda: len(engine.loop.tickets) == 1)
        for wants in (False, True):  # one of the two prompts has room
            response = client.post("/v1/completions", json={"prompt": ["a", "b"], "stream": wants})
            assert response.status_code == 503
        too_many = {"prompt": ["a"] * 3}
        assert client.post("/v1/completions", json=too_many).status_code == 400
        server.health.refuse()
        refused = client.post(PATH, json=ENDLESS)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert client.get("/v1/models").status_code == 200
        server.health.refusing = False
        asyncio.run(engine.close())  # ends what runs: its clients are told to try again
        for response in running:
            *_, last = events(response)
            assert last["error"]["type"] == "unavailable"
        gone = client.post(PATH, json=ENDLESS)
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "engine_closed")
        assert client.get("/health").status_code == 503


def test_a_deadline_ends_a_request_with_what_there_is(nano: AsyncEngine) -> None:
    with client_of(nano) as client:
        for fields, headers in (
            ({"timeout": 0.4}, {}),
            ({}, {"X-Request-Timeout": "0.4"}),
            ({"timeout": 100}, {"X-Request-Timeout": "0.4"}),
        ):
            body = client.post(PATH, json={**ENDLESS, "n": 8, **fields}, headers=headers).json()
            assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
            assert {choice["stop_reason"] for choice in body["choices"]} == {"timeout"}
            assert 0 < body["usage"]["completion_tokens"] < 8 * 1000
        never = {**ENDLESS, "timeout": 1e-9}
        for asked in (never, {**never, "gsr": {}}):
            response = client.post(PATH, json=asked)
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (400, "deadline_exceeded")
            assert error["param"] == "timeout"
            (*_, last) = stream(client, PATH, **asked)
            assert last["error"]["code"] == "deadline_exceeded"
        for no_number in ("soon", "1_0"):
            bad = client.post(PATH, json=ENDLESS, headers={"X-Request-Timeout": no_number})
            assert (bad.status_code, bad.json()["error"]["param"]) == (400, "x-request-timeout")


def test_a_candidate_timeout_ends_the_candidates_alone(nano: AsyncEngine) -> None:
    gsr = {"k": 8, "candidate_timeout": 0.2, "view": "full", "stream": "all"}
    with client_of(nano) as client:
        body = client.post(PATH, json={**ENDLESS, "max_completion_tokens": 14_000, "gsr": gsr})
        told = body.json()
        assert {one["finish_reason"] for one in told["gsr"]["candidates"]} == {"abort"}
        assert told["choices"][0]["finish_reason"] == "length"


def test_a_silent_stream_says_that_it_lives(nano: AsyncEngine) -> None:
    with client_of(nano, settings=Settings(keep_alive_seconds=0.02)) as client:
        asked = {**ENDLESS, "gsr": {"k": 4, "view": "full"}, "max_tokens": 300, "stream": True}
        with client.stream("POST", PATH, json=asked) as response:
            lines = list(response.iter_lines())
        assert lines.count(": keep-alive") > 2
        assert not any(line.startswith("event:") for line in lines)
        data = [place for place, line in enumerate(lines) if line.startswith("data: ")]
        assert ": keep-alive" in lines[data[0] : data[1]]  # while candidates are written


def test_logits_that_are_not_finite_are_the_requests_fault(
    nano: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica would find them, too: a router must not try it there."""
    from gsr_engine.schedule import scheduler

    with client_of(nano) as client:
        monkeypatch.setattr(scheduler.math, "isfinite", lambda _: False)
        for fields in ({}, {"gsr": {}}):
            response = client.post(PATH, json={**ENDLESS, **fields})
            assert response.status_code == 400
            assert "not finite" in response.json()["error"]["message"]
            (*_, last) = stream(client, PATH, **ENDLESS, **fields)
            assert "not finite" in last["error"]["message"]


def test_a_step_that_fails_is_not_the_requests_fault(
    nano: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails all requests in it, and another replica would answer them."""
    from gsr_engine.execution.runner import Runner

    def launch(*_: object) -> None:
        raise RuntimeError("/secret/path is on fire")

    with client_of(nano) as client:
        monkeypatch.setattr(Runner, "launch", launch)
        for fields in ({}, {"gsr": {}}):
            response = client.post(PATH, json={**ENDLESS, **fields})
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert response.json()["error"]["code"] == "engine_failed"
            assert "secret" not in response.text
            (*_, last) = stream(client, PATH, **ENDLESS, **fields)
            assert last["error"]["code"] == "engine_failed"
        monkeypatch.undo()
        assert client.post(PATH, json={"messages": MESSAGES, "max_tokens": 2}).status_code == 200


def test_errors_have_one_form(api: httpx.Client) -> None:
    for response in (
        api.get("/nothing"),
        api.get(PATH),
        api.get("/v1/models/"),
        api.post(PATH, content=b"{"),
        api.post(PATH, content=b"\xff", headers=JSON),
        api.post(PATH, content=b"[" * 100_000, headers=JSON),
        api.post(PATH, content=b"[]", headers=JSON),
        api.post(PATH, content=b'{"messages": [{"role": "user", "content": "a"}], "seed": NaN}'),
    ):
        assert 400 <= response.status_code < 500
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    named = api.get(PATH, headers={"X-Request-ID": "mine"}).headers
    assert (named["allow"], named["x-request-id"]) == ("POST", "mine")


def test_a_body_that_is_not_read_is_named(api: httpx.Client) -> None:
    good = {"messages": MESSAGES, "max_tokens": 1}
    for kind, status in (
        (None, 400),
        ("text/plain", 400),
        ("application/x-www-form-urlencoded", 400),
        ("application/json; charset=utf-8", 200),
    ):
        headers = {} if kind is None else {"Content-Type": kind}
        response = api.post(PATH, content=json.dumps(good), headers=headers)
        assert response.status_code == status
        if status == 400:
            error = response.json()["error"]
            assert error["param"] == "content-type"
            assert error["message"] == "content-type: must be application/json"
    for unreadable in (b"{", b"\xff", b"[" * 100_000):
        response = api.post(PATH, content=unreadable, headers=JSON)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "body")


BAD: Any = [0.5] * 1000
TURN = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (ChatBody, {"messages": BAD}),
        (ChatBody, {"messages": [{**TURN, "content": BAD}]}),
        (ChatBody, {"messages": [TURN], "stop": BAD}),
        (ChatBody, {"messages": [TURN], "stop_token_ids": BAD}),
        (ChatBody, {"messages": [TURN], "gsr": {"candidates": BAD}}),
        (ChatBody, {"messages": [TURN], "gsr": {"candidates": [BAD]}}),
        (ChatBody, {"messages": [TURN], **{f"f{place}": 1 for place in range(1000)}}),
        (ChatBody, {"messages": [TURN] * 10_001}),
        (CompletionBody, {"prompt": BAD}),
        (CompletionBody, {"prompt": [BAD]}),
        (TokenizeBody, {"messages": BAD}),
        (TokenizeBody, {"messages": [TURN] * 10_001}),
        (DetokenizeBody, {"tokens": BAD}),
    ],
)
def test_a_body_is_refused_at_its_first_faults(model: type[Body], fields: Any) -> None:
    """A body has room for millions; to list them takes a minute in which nobody is answered."""
    with pytest.raises(ValidationError) as refused:
        model.model_validate(fields)
    assert refused.value.error_count() <= 8


@pytest.mark.parametrize("others", [{}, {"cache_control": None}])
def test_a_null_counts_as_absent_in_every_object(others: dict[str, None]) -> None:
    part = {"type": "text", "text": "a", **others}
    turn = {**TURN, "content": [part], "name": None, **others}
    assert ChatBody.model_validate({"messages": [turn], "n": None, **others}).n == 1
    for faulty in ({"text": None}, {"text": "a", "x": 1}, {"text": 1}):
        turn = {**TURN, "content": [{**part, **faulty}]}
        with pytest.raises(ValidationError):
            ChatBody.model_validate({"messages": [turn]})


def test_an_unknown_field_is_named_whatever_its_name(api: httpx.Client) -> None:
    for fields, param in (
        ({"max-tokens": 1}, "max-tokens"),
        ({"str": 1}, "str"),
        ({"gsr": {"k-x": 1}}, "gsr.k-x"),
        ({"first": 1, "second": 2}, "first"),
        ({"x" * 10_000: 1}, "x" * 80),
    ):
        response = api.post(PATH, json={"messages": MESSAGES, **fields})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert error["message"] == f"{param}: is no field of this request"


def test_a_long_session_id_is_cut_in_the_log(
    api: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gsr_engine.requests")
    asked = {"messages": MESSAGES, "max_tokens": 1}
    assert api.post(PATH, json=asked, headers={"X-Session-ID": "s" * 5000}).status_code == 200
    until(lambda: caplog.messages)
    assert f" session_id={'s' * 200} " in caplog.messages[-1]


def test_an_event_is_one_line_for_every_reader_of_lines() -> None:
    value = {"text": "a\r\n\x0b\x0c\x1c\x85\u2028\u2029b"}
    line = event(value).decode().removesuffix("\n\n")
    assert line.splitlines() == [line]
    assert json.loads(line.removeprefix("data: ")) == value


def test_connections_do_not_wait_for_acknowledgements() -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_settings_are_checked() -> None:
    for field, value in (
        ("max_k", 0),
        ("max_k", 10**6),
        ("default_k", 65),
        ("model_name", ""),
        ("keep_alive_seconds", 0),
        ("page", 1),
        ("max_body_bytes", -1),
        ("max_tokens", 0),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: "):
            Settings(**{field: value})  # type: ignore[arg-type]
