"""`/v1/completions` and the routes of the tokenizer: texts, token ids, batches of them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gsr_engine import AsyncEngine
from gsr_engine.demo.puzzles import sample_puzzles
from tests.helpers.live_server import stream

PATH = "/v1/completions"
PUZZLES = [puzzle.problem for puzzle in sample_puzzles("test", 3, 3)]
GREEDY = {"temperature": 0, "max_tokens": 12}


def post(api: httpx.Client, **fields: Any) -> Any:
    response = api.post(PATH, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def texts(body: Any) -> list[str]:
    return [choice["text"] for choice in body["choices"]]


def test_texts_and_ids_mean_the_same_alone_and_in_a_batch(
    api: httpx.Client, nano: AsyncEngine
) -> None:
    encode = nano.maker.tokenizer.encode_prompt
    ids = [encode(text) for text in PUZZLES]
    alone = [texts(post(api, prompt=text, **GREEDY))[0] for text in PUZZLES]
    assert len(set(alone)) > 1
    assert [texts(post(api, prompt=one, **GREEDY))[0] for one in ids] == alone
    assert texts(post(api, prompt=PUZZLES, **GREEDY)) == alone
    body = post(api, prompt=ids, return_token_ids=True, **GREEDY)
    assert texts(body) == alone
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert [choice["prompt_token_ids"] for choice in body["choices"]] == ids
    assert body["usage"]["prompt_tokens"] == sum(map(len, ids))
    assert body["usage"]["completion_tokens"] == 36


def test_a_prompts_choices_follow_each_other_and_do_not_depend_on_the_batch(
    api: httpx.Client,
) -> None:
    asked = {"n": 2, "seed": 4, "max_tokens": 30, "temperature": 2.0}
    alone = [texts(post(api, prompt=text, **asked)) for text in PUZZLES]
    assert all(first != second for first, second in alone)
    assert texts(post(api, prompt=PUZZLES, **asked)) == [text for pair in alone for text in pair]


def test_a_streamed_batch_says_the_same(api: httpx.Client) -> None:
    asked = {
        "prompt": PUZZLES,
        "n": 2,
        "seed": 4,
        "max_tokens": 15,
        "logprobs": 1,
        "return_token_ids": True,
    }
    body = post(api, **asked)
    chunks = stream(api, PATH, **asked, stream_options={"include_usage": True})
    *others, last = chunks
    names = ("prompt_tokens", "completion_tokens")
    assert [last["usage"][name] for name in names] == [body["usage"][name] for name in names]
    for whole in body["choices"]:
        mine = [c for chunk in others for c in chunk["choices"] if c["index"] == whole["index"]]
        assert "".join(choice["text"] for choice in mine) == whole["text"]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            told = [one for c in mine for one in (c.get("logprobs") or {name: []})[name]]
            assert told == whole["logprobs"][name]
        assert [t for c in mine for t in c.get("token_ids", ())] == whole["token_ids"]
        assert [bool(c["finish_reason"]) for c in mine] == [False] * (len(mine) - 1) + [True]
    firsts = {c["index"] // 2: c for chunk in reversed(others) for c in chunk["choices"]}
    assert [firsts[place]["prompt_token_ids"] for place in range(3)] == [
        choice["prompt_token_ids"] for choice in body["choices"][::2]
    ]


def test_the_drawn_token_is_among_the_likeliest_with_the_same_number(api: httpx.Client) -> None:
    """lm-eval takes an answer for greedy if the token's number is the largest of them."""
    for temperature in (0, 3):
        asked = {"prompt": PUZZLES[0], "max_tokens": 40, "temperature": temperature, "seed": 1}
        told = post(api, **asked, logprobs=2)["choices"][0]["logprobs"]
        assert len(told["tokens"]) == 40
        pairs = list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))
        assert all(number in top.values() and len(top) in (2, 3) for number, top in pairs)
        assert all(number == max(top.values()) for number, top in pairs) == (temperature == 0)
        assert post(api, **asked, logprobs=0)["choices"][0]["logprobs"]["top_logprobs"] is None


def test_an_echoed_prompt_has_the_log_probabilities_that_a_completion_would_have(
    api: httpx.Client, nano: AsyncEngine
) -> None:
    """As lm-eval asks for a multiple choice: what follows a context is scored as a prompt."""
    context = nano.maker.tokenizer.encode_prompt(sample_puzzles("test", 6, 1)[0].problem)
    asked = {"temperature": 0, "seed": 1234, "logprobs": 2, "max_tokens": 20}
    drawn = post(api, prompt=context, **asked, return_token_ids=True)["choices"][0]
    whole = context + drawn["token_ids"]
    payload = {**asked, "max_tokens": 1, "echo": True}
    body = post(api, prompt=[whole, context], **payload)
    told = body["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(whole) + 1
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    scored = slice(len(context), -1)
    assert told["tokens"][scored] == drawn["logprobs"]["tokens"]
    assert told["token_logprobs"][scored] == pytest.approx(
        drawn["logprobs"]["token_logprobs"], abs=1e-4
    )
    for number, top in zip(
        told["token_logprobs"][scored], told["top_logprobs"][scored], strict=True
    ):
        assert number == max(top.values())  # it was drawn greedily
    assert "".join(told["tokens"]) == body["choices"][0]["text"]
    assert told["text_offset"][-1] == len(body["choices"][0]["text"]) - len(told["tokens"][-1])
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # The cache is written: the next request that does not ask for scores finds it.
    again = post(api, prompt=whole, max_tokens=1)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_an_echo_streams_as_it_comes_whole(api: httpx.Client, logprobs: int | None) -> None:
    asked = {"prompt": PUZZLES[:2], "n": 2, "seed": 3, "max_tokens": 4, "echo": True}
    asked = {**asked, "logprobs": logprobs, "return_token_ids": True}
    body, chunks = post(api, **asked), stream(api, PATH, **asked)
    for whole in body["choices"]:
        assert whole["text"].startswith(PUZZLES[whole["index"] // 2])
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == whole["index"]]
        assert "".join(choice["text"] for choice in mine) == whole["text"]
        assert [t for c in mine for t in c.get("token_ids", ())] == whole["token_ids"]
        assert len(whole["token_ids"]) == 4
        if logprobs is not None:
            told = [
                one for c in mine for one in (c.get("logprobs") or {}).get("token_logprobs", ())
            ]
            assert told == whole["logprobs"]["token_logprobs"]


def test_special_tokens_of_a_text_are_parsed_and_added_as_vllm_does(
    api: httpx.Client, nano: AsyncEngine
) -> None:
    tokenizer = nano.maker.tokenizer
    text = f"<bos><user>{PUZZLES[0]}<assistant>"
    asked = {"prompt": text, "max_tokens": 1, "return_token_ids": True}
    ids = post(api, **asked)["choices"][0]["prompt_token_ids"]
    assert ids == tokenizer.encode_prompt(text)
    assert set(tokenizer.encode_markup("<bos><user><assistant>")) <= set(ids)
    bare = post(api, **asked, add_special_tokens=False)["choices"][0]["prompt_token_ids"]
    assert bare == tokenizer.encode_markup(text)


def test_without_a_limit_there_are_sixteen_tokens(api: httpx.Client) -> None:
    body = post(api, prompt=PUZZLES[0], ignore_eos=True)
    assert body["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": [[]]}),
        ("prompt", {"prompt": [10**9]}),
        ("prompt", {"prompt": [-1]}),
        ("prompt", {"prompt": ["a"] * 65}),
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": [1, 2], "gsr": {}}),
        ("suffix", {"suffix": "b"}),
        ("echo", {"echo": True, "gsr": {}}),
        ("best_of", {"best_of": 3}),
        ("logprobs", {"logprobs": 21}),
        ("messages", {"messages": []}),
    ],
    ids=str,
)
def test_what_is_not_served_is_refused_by_name(
    api: httpx.Client, param: str, fields: dict[str, Any]
) -> None:
    response = api.post(PATH, json={"prompt": "a", **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_bad_prompt_of_a_batch_refuses_it_and_leaves_nothing_running(
    api: httpx.Client, nano: AsyncEngine
) -> None:
    for wants in (False, True):
        bad = {"prompt": [[5], [6], [10**9]], "max_tokens": 1000, "stream": wants}
        with api.stream("POST", PATH, json=bad) as response:
            told = response.read().decode()
        assert "token id 1000000000 is outside" in told
    assert texts(post(api, prompt=PUZZLES[0], **GREEDY))


def test_the_tokenizer_answers(api: httpx.Client, nano: AsyncEngine) -> None:
    tokenizer, text = nano.maker.tokenizer, f"<bos>{PUZZLES[0]}<eos>"
    body = api.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert body["tokens"] == tokenizer.encode_prompt(text)
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert body["max_model_len"] == nano.maker.limits.max_model_len
    back = api.post("/detokenize", json={"tokens": body["tokens"]}).json()
    assert back == {"prompt": text}
    messages = [{"role": "user", "content": "1+1"}]
    chat = api.post("/tokenize", json={"messages": messages}).json()
    assert chat["tokens"] == nano.maker.chat_prompt(messages)
    info = api.get("/tokenizer_info").json()
    assert (info["eos_token"], info["bos_token"]) == ("<eos>", "<bos>")
    assert "add_generation_prompt" in info["chat_template"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"prompt": "a" * 10**6}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_the_tokenizer_refuses_by_name(
    api: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    response = api.post(path, json=fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
