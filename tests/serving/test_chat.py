"""`/v1/chat/completions` without refinement: bodies, streams, counts, refusals."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gsr_engine import AsyncEngine
from gsr_engine.demo.puzzles import sample_puzzles
from tests.helpers.live_server import joined, stream

PATH = "/v1/chat/completions"
PUZZLES = [puzzle.problem for puzzle in sample_puzzles("test", 3, 2)]
MESSAGES = [{"role": "user", "content": PUZZLES[0]}]


def post(api: httpx.Client, **fields: Any) -> Any:
    response = api.post(PATH, json={"messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(api: httpx.Client, param: str, **fields: Any) -> str:
    body = json.dumps({"messages": MESSAGES, **fields})  # in ASCII, also half a surrogate pair
    response = api.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    message: str = error["message"]
    return message


def test_a_body_says_what_the_engine_wrote(api: httpx.Client, nano: AsyncEngine) -> None:
    body = post(api, temperature=0, return_token_ids=True, model="nano")
    assert body["object"] == "chat.completion"
    assert body["model"] == "nano"
    (choice,) = body["choices"]
    message, usage = choice["message"], body["usage"]
    assert message["role"] == "assistant"
    # nano thinks; its thinking is apart from its answer, without the tags.
    assert message["reasoning"] == message["reasoning_content"] != ""
    written = f"<think>{message['reasoning']}</think>{message['content']}"
    tokenizer = nano.maker.tokenizer
    assert tokenizer.decode(choice["token_ids"]) == written
    assert body["prompt_token_ids"] == nano.maker.chat_prompt(MESSAGES)
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    assert usage["prompt_tokens"] == len(body["prompt_token_ids"])
    assert usage["completion_tokens"] == len(choice["token_ids"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    (closing,) = tokenizer.encode_markup("</think>")
    thought = choice["token_ids"].index(closing) + 1
    assert usage["completion_tokens_details"]["reasoning_tokens"] == thought
    phases = usage["gsr"]
    computed = phases["candidate_prefill"]["tokens_computed"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert computed + cached == usage["prompt_tokens"]


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_the_same_as_a_body(api: httpx.Client, n: int) -> None:
    asked = {
        "messages": MESSAGES,
        "n": n,
        "seed": 5,
        "max_tokens": 60,
        "logprobs": True,
        "top_logprobs": 2,
        "return_token_ids": True,
    }
    body = post(api, **asked)
    chunks = stream(api, PATH, **asked, stream_options={"include_usage": True})
    assert len({chunk["id"] for chunk in chunks}) == 1
    # First a role for every choice: a client that meets index 2 first would fail.
    for index, chunk in enumerate(chunks[:n]):
        (choice,) = chunk["choices"]
        assert (choice["index"], choice["delta"]["role"]) == (index, "assistant")
    assert chunks[0]["prompt_token_ids"] == body["prompt_token_ids"]
    *others, last = chunks
    assert all(len(chunk["choices"]) == 1 and chunk["usage"] is None for chunk in others)
    assert last["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
        assert last["usage"][name] == body["usage"][name]
    for whole in body["choices"]:
        mine = [c for chunk in others for c in chunk["choices"] if c["index"] == whole["index"]]
        for name in ("content", "reasoning", "reasoning_content"):
            assert joined(others, name, whole["index"]) == whole["message"][name]
        token_ids = [token for choice in mine for token in choice.get("token_ids", ())]
        assert token_ids == whole["token_ids"]
        told = [one for c in mine for one in (c.get("logprobs") or {"content": []})["content"]]
        assert told == whole["logprobs"]["content"]
        assert len(told) == len(whole["token_ids"])
        assert all(len(one["top_logprobs"]) == 2 for one in told)
        assert [c["finish_reason"] for c in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == whole["finish_reason"]
        assert mine[-1]["stop_reason"] == whole["stop_reason"]


def test_usage_may_come_with_every_chunk(api: httpx.Client) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(api, PATH, messages=MESSAGES, max_tokens=20, n=2, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == 40
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1


def test_a_seed_gives_the_same_answer_and_none_gives_another(api: httpx.Client) -> None:
    def answers(**fields: Any) -> list[str]:
        body = post(api, max_tokens=100, temperature=2.0, n=3, **fields)
        return [str(choice["message"]) for choice in body["choices"]]

    assert answers(seed=1) == answers(seed=1) != answers(seed=2)
    assert len(set(answers(seed=1))) == 3
    assert answers() != answers()


def test_the_true_reason_stands_beside_openais(api: httpx.Client, nano: AsyncEngine) -> None:
    greedy = post(api, temperature=0, return_token_ids=True)["choices"][0]
    text, token = greedy["message"]["content"], greedy["token_ids"][30]
    cut = post(api, temperature=0, max_tokens=5)["choices"][0]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("length", None)
    stop = text[10:12]
    stopped = post(api, temperature=0, stop=[stop])["choices"][0]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)
    assert stopped["message"]["content"] == text[: text.index(stop)]
    by_id = post(api, temperature=0, stop_token_ids=[token])["choices"][0]
    assert (by_id["finish_reason"], by_id["stop_reason"]) == ("stop", token)
    loop = {"max_pattern_size": 4, "min_pattern_size": 1, "min_count": 2}
    text_loop = [{"role": "user", "content": "a" * 40}]
    looped = post(
        api, messages=text_loop, temperature=0, repetition_detection=loop, ignore_eos=True
    )["choices"][0]
    assert (looped["finish_reason"], looped["stop_reason"]) == ("length", "repetition")


def test_nulls_count_as_absent(api: httpx.Client) -> None:
    names = ("stop", "n", "seed", "top_p", "logprobs", "max_completion_tokens", "tools", "user")
    fields = {**dict.fromkeys(names), "stream_options": None, "response_format": None}
    asked = {"temperature": 0, "max_tokens": 5}
    with_nulls = post(api, **asked, **fields)["choices"]
    assert with_nulls == post(api, **asked)["choices"]


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("tools", {"tools": [{"type": "function"}]}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("guided_json", {"guided_json": "{}"}),
        ("chat_template", {"chat_template": "{{ messages }}"}),
        ("temprature", {"temprature": 0.5}),
        ("temperature", {"temperature": -1}),
        ("temperature", {"temperature": "hot"}),
        ("n", {"n": 0}),
        ("n", {"n": 17}),
        ("n", {"n": 257}),
        ("top_logprobs", {"top_logprobs": 3}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("stream_options.bogus", {"stream": True, "stream_options": {"bogus": True}}),
        ("messages", {"messages": []}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "a"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": 5}]}),
        ("messages.0.content.0.type", {"messages": [{"role": "user", "content": [{"type": "i"}]}]}),
        ("messages", {"messages": [{"role": "user", "content": "\ud800"}]}),
        ("messages", {"messages": [{"role": "user", "content": "a" * 100_000}]}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"tokenize": True}}),
        ("priority", {"priority": 10**6}),
        ("timeout", {"timeout": 0}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_completion_tokens", {"max_completion_tokens": 2, "n": 3}),
        ("model", {"model": "nano:bogus@4"}),
        ("gsr.method", {"gsr": {"method": "bogus"}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_served_is_refused_by_name(
    api: httpx.Client, param: str, fields: dict[str, Any]
) -> None:
    message = refused(api, param, **fields)
    assert param in message or "Field required" in message


@pytest.mark.parametrize("name", ["tokenize", "bos_token", "eos_token"])
def test_some_variables_of_a_template_are_not_for_callers(api: httpx.Client, name: str) -> None:
    message = refused(api, "chat_template_kwargs", chat_template_kwargs={name: "x"})
    assert message == f"chat_template_kwargs: {name} is not for callers to set"


def test_another_model_is_not_found(api: httpx.Client) -> None:
    response = api.post(PATH, json={"messages": MESSAGES, "model": "gpt-4"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_control_tokens_in_contents_stay_text(api: httpx.Client, nano: AsyncEngine) -> None:
    tokenizer = nano.maker.tokenizer

    def prompt(content: str) -> list[int]:
        messages = [{"role": "user", "content": content}]
        body = post(api, messages=messages, max_tokens=1, return_token_ids=True)
        ids: list[int] = body["prompt_token_ids"]
        return ids

    plain = prompt(PUZZLES[0])
    for text in ("<bos>", "<eos>", "<user>", "<assistant>"):
        (token,) = tokenizer.encode_markup(text)
        assert prompt(PUZZLES[0] + text).count(token) == plain.count(token)


def test_parts_of_a_content_are_lines_and_a_developer_is_the_system(
    api: httpx.Client, nano: AsyncEngine
) -> None:
    parts = [{"type": "text", "text": "1+1"}, {"type": "text", "text": "2"}]
    asked = [{"role": "user", "content": parts}]
    ids = post(api, messages=asked, max_tokens=1, return_token_ids=True)["prompt_token_ids"]
    assert ids == nano.maker.chat_prompt([{"role": "user", "content": "1+1\n2"}])


def test_priorities_are_vllms(api: httpx.Client) -> None:
    """Lower is earlier there, so the largest is the engine's smallest: both ends are taken."""
    for priority in (-1000, 1000):
        post(api, priority=priority, max_tokens=1)


def test_a_request_id_is_echoed_and_a_bad_one_replaced(api: httpx.Client) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 1}
    headers = {"X-Request-ID": "mine-7"}
    response = api.post(PATH, json=asked, headers=headers)
    assert response.headers["x-request-id"] == "mine-7"
    assert response.json()["id"] == "chatcmpl-mine-7"
    long = api.post(PATH, json=asked, headers={"X-Request-ID": "x" * 1000})
    assert 0 < len(long.headers["x-request-id"]) < 100
    bad = api.post(PATH, json={}, headers=headers)
    assert (bad.status_code, bad.headers["x-request-id"]) == (400, "mine-7")
    streamed = api.post(PATH, json={**asked, "stream": True}, headers=headers)
    assert streamed.headers["x-request-id"] == "mine-7"
