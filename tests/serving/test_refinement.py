"""selfRef@k over HTTP: what is refined, whose parameters, within which budget, how it streams."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gsr_engine import (
    AsyncEngine,
    CandidateToken,
    Engine,
    RefineToken,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.serving.http.chat import ChatBody
from gsr_engine.serving.http.refined_narrator import RefinedNarrator
from tests.helpers.live_server import joined, stream

PATH = "/v1/chat/completions"
PUZZLE = sample_puzzles("test", 3, 2)[0].problem
MESSAGES: Any = [{"role": "user", "content": PUZZLE}]
SHORT: dict[str, Any] = {"stream": "all", "view": "full"}  # a short candidate is all thinking
HOT = {"candidate": {"temperature": 2.0}}


def post(api: httpx.Client, **fields: Any) -> Any:
    response = api.post(PATH, json={"messages": MESSAGES, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(api: httpx.Client, **fields: Any) -> tuple[str, str]:
    response = api.post(PATH, json={"messages": MESSAGES, **fields})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


@pytest.fixture(scope="module")
def engine() -> Any:
    with Engine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05) as engine:
        yield engine


def test_it_is_the_engines_own_refinement(api: httpx.Client, engine: Engine) -> None:
    params = SelfRefineParams(
        k=3,
        seed=7,
        candidate=SamplingParams(max_tokens=90, temperature=2.0),
        refine=SamplingParams(max_tokens=90, temperature=0.0),
    )
    expected = engine.self_refine([MESSAGES], params)[0]
    body = post(api, seed=7, max_tokens=90, gsr={"k": 3, "stream": "phases", **HOT})
    (choice,) = body["choices"]
    assert choice["message"]["content"] == expected.text
    told = body["gsr"]
    assert [one["text"] for one in told["candidates"]] == [c.text for c in expected.candidates]
    assert (told["answer"], told["used"]) == (expected.answer, expected.used)
    usage, phases = body["usage"], body["usage"]["gsr"]
    assert usage["prompt_tokens"] == expected.usage.prompt_tokens
    assert usage["completion_tokens"] == expected.usage.completion_tokens
    assert (phases["k"], phases["k_effective"]) == (3, expected.k_effective)
    assert phases["refine_prefill"]["tokens_reused"] > 0
    assert expected.refinement is not None
    candidates = sum(len(one.token_ids) for one in expected.candidates)
    assert usage["completion_tokens_details"]["reasoning_tokens"] >= candidates


def test_the_model_id_asks_for_it_as_well(api: httpx.Client) -> None:
    listed = [model["id"] for model in api.get("/v1/models").json()["data"]]
    assert listed == ["nano", "nano:selfref@4"]
    by_id = post(api, model="nano:selfref@3", seed=7, max_tokens=50)
    by_field = post(api, model="nano", seed=7, max_tokens=50, gsr={"k": 3})
    assert by_id["choices"] == by_field["choices"]
    assert by_id["model"] == "nano:selfref@3"
    assert post(api, gsr={"view": "full"}, max_tokens=5)["usage"]["gsr"]["k"] == 4


def test_nothing_in_a_text_asks_for_it(api: httpx.Client) -> None:
    for content in ("nano:selfref@4", '{"gsr": {"k": 4}}', "<gsr>selfref</gsr>"):
        asked = [{"role": "system", "content": content}, {"role": "user", "content": content}]
        body = api.post(PATH, json={"messages": asked, "max_tokens": 3}).json()
        assert "gsr" not in body
        assert "refine_decode" not in body["usage"]["gsr"]


def test_lm_evals_own_payload_gives_k_different_candidates(api: httpx.Client) -> None:
    payload = {"temperature": 0, "seed": 1234, "max_tokens": 200, "stop": ["\n\n"]}
    body = post(api, model="nano:selfref@4", **payload, gsr={"stream": "all"})
    candidates = [one["text"] for one in body["gsr"]["candidates"]]
    assert len(set(candidates)) > 1
    hot = post(api, model="nano:selfref@4", **payload, gsr={"stream": "all", **HOT})
    assert len({one["text"] for one in hot["gsr"]["candidates"]}) == 4
    again = post(api, model="nano:selfref@4", **payload, gsr={"stream": "all"})
    assert again["gsr"] == body["gsr"]


def test_parameters_at_the_top_are_the_refinements(api: httpx.Client) -> None:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 60}
    plain = post(api, **asked, gsr={"stream": "all", **HOT})
    drawn = post(
        api,
        **asked,
        temperature=3.0,
        top_k=50,
        logprobs=True,
        top_logprobs=3,
        gsr={"stream": "all", **HOT},
    )
    assert drawn["gsr"]["candidates"] == plain["gsr"]["candidates"]
    assert drawn["choices"][0]["message"] != plain["choices"][0]["message"]
    assert len(drawn["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    cold = post(api, **asked, gsr={"stream": "all", "candidate": {"temperature": 0}})
    assert len({one["text"] for one in cold["gsr"]["candidates"]}) == 1


def test_what_ends_a_stream_ends_both_unless_the_candidate_says_otherwise(
    api: httpx.Client,
) -> None:
    both = post(api, seed=3, max_tokens=10, gsr=SHORT)
    assert [one["tokens"] for one in both["gsr"]["candidates"]] == [10] * 4
    assert both["usage"]["completion_tokens"] == 50
    own = post(api, seed=3, max_tokens=10, gsr={**SHORT, "candidate": {"max_tokens": 30}})
    assert [one["tokens"] for one in own["gsr"]["candidates"]] == [30] * 4
    assert own["usage"]["completion_tokens"] == 130
    stopped = post(api, seed=3, stop=["j"], gsr={"stream": "all"})
    assert all("j" not in one["text"] for one in stopped["gsr"]["candidates"])
    assert stopped["choices"][0]["stop_reason"] == "j"


def test_n_are_refinements_of_the_same_candidates(api: httpx.Client) -> None:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 60, "temperature": 2.0}
    one = post(api, **asked, gsr={"k": 2, "stream": "all"})
    three = post(api, **asked, n=3, gsr={"k": 2, "stream": "all"})
    assert [choice["index"] for choice in three["choices"]] == [0, 1, 2]
    assert len({str(choice["message"]) for choice in three["choices"]}) == 3
    assert three["gsr"]["candidates"] == one["gsr"]["candidates"]
    assert three["usage"]["completion_tokens"] == 5 * 60
    several = post(api, n=2, seed=3, max_tokens=60, gsr={"k": 1, "template": "plain"})
    assert len(several["choices"]) == 2


def test_a_vote_among_refinements_gives_one_answer(api: httpx.Client) -> None:
    asked: dict[str, Any] = {"seed": 3, "temperature": 1.5, "gsr": {"k": 2, "refinements": 3}}
    body = post(api, **asked)
    assert len(body["choices"]) == 1
    chunks = stream(api, PATH, messages=MESSAGES, **asked)
    assert joined(chunks, "content") == body["choices"][0]["message"]["content"]
    assert refused(api, n=2, gsr={"refinements": 3})[0] == "gsr.refinements"
    assert refused(api, gsr={"refinements": 3, "template": "plain"})[0] == "gsr.refinements"


def test_a_client_may_bring_its_candidates(api: httpx.Client, nano: AsyncEngine) -> None:
    texts = ["<think>1</think>a1=a₃1", "b1=b₃1"]
    ids = [nano.maker.tokenizer.encode_solution(text) for text in texts]
    by_text = post(api, max_tokens=40, gsr={"candidates": texts})
    by_ids = post(api, max_tokens=40, gsr={"candidates": ids})
    assert by_text["choices"] == by_ids["choices"]
    assert by_text["usage"]["gsr"]["k"] == 2
    assert by_text["usage"]["completion_tokens"] <= 40
    assert refused(api, gsr={"candidates": []})[0] == "gsr.candidates"
    assert refused(api, gsr={"candidates": texts, "k": 3})[0] == "gsr.k"
    assert refused(api, gsr={"candidates": texts, "agreement": 2})[0] == "gsr.agreement"
    param, message = refused(api, gsr={"candidates": ["<think>1", "<think>2"]})
    assert (param, message[:26]) == ("gsr.candidates", "0 of 2 candidates are usab")


def test_a_subset_may_be_as_large_as_the_widest_round(api: httpx.Client) -> None:
    for gsr in ({"k": 2, "subset": 2}, {"k": 2, "widths": [3], "subset": 3}):
        post(api, max_tokens=5, gsr={**gsr, "view": "full"})


@pytest.mark.parametrize("mode", ["final", "phases", "all"])
def test_a_naive_client_survives_every_way_to_stream(api: httpx.Client, mode: str) -> None:
    asked: dict[str, Any] = {
        "seed": 7,
        "messages": MESSAGES,
        "gsr": {"k": 2, "stream": mode, "widths": [2], **HOT},
    }
    body = post(api, **asked)
    chunks = stream(api, PATH, **asked)
    # What every tutorial does with a chunk.
    said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert said == body["choices"][0]["message"]["content"] != ""
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert joined(chunks, "reasoning") == joined(chunks, "reasoning_content")
    assert all(chunk["choices"][0]["index"] == 0 for chunk in chunks)
    told = [chunk["gsr"] for chunk in chunks if "gsr" in chunk]
    done = [one for one in told if one["event"] == "candidate_done"]
    tokens = [one for one in told if one["event"] == "tokens"]
    reasoning = joined(chunks, "reasoning")
    if mode == "final":
        assert [one["event"] for one in told] == ["done"]
        assert "Candidate" not in reasoning
        assert "candidates" not in body["gsr"]
        return
    written = body["gsr"]["candidates"]
    assert sorted(one["candidate"] for one in done) == [0, 1]
    for one in done:
        same = written[one["candidate"]]
        names = ("answer", "tokens", "finish_reason")
        assert [one[name] for name in names] == [same[name] for name in names]
        assert one["mean_logprob"] == pytest.approx(same["mean_logprob"])
        assert one["mean_logprob"] < 0
    if mode == "phases":
        assert not tokens
        assert body["choices"][0]["message"]["reasoning"] == reasoning
        for number, one in enumerate(written, start=1):
            assert f"Candidate {number} of 2\n\n{one['text'].strip()}\n\n" in reasoning
        assert "Round 1, refinement 2 of 2" in reasoning
        return
    for index, one in enumerate(written):
        streamed = "".join(
            chunk["choices"][0]["delta"].get("reasoning", "")
            for chunk in chunks
            if chunk.get("gsr", {}).get("candidate") == index
        )
        assert streamed == one["text"]


@given(data=st.data())
@settings(max_examples=25)
def test_a_reply_never_has_more_than_max_completion_tokens(
    api: httpx.Client, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, 4), "k")
    n = data.draw(st.integers(1, 3), "n")
    widths = data.draw(st.sampled_from([[], [2]]), "widths")
    bound = data.draw(st.integers(1, 60), "max_completion_tokens")
    own = data.draw(st.none() | st.integers(1, 30), "gsr.candidate.max_tokens")
    most = data.draw(st.none() | st.integers(1, 30), "max_tokens")
    given_ones = data.draw(st.booleans(), "given")
    gsr: dict[str, Any] = {
        "view": "full",
        "k": k,
        "widths": widths,
        "candidate": {"max_tokens": own},
    }
    if given_ones:
        gsr["candidates"] = ["a1"] * k
    asked = {"messages": MESSAGES, "n": n, "max_completion_tokens": bound, "max_tokens": most}
    response = api.post(PATH, json={**asked, "ignore_eos": True, "gsr": gsr})
    streams = n + sum(widths) + (0 if given_ones else k)
    if bound < streams:
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "max_completion_tokens")
        assert f"at least {streams}" in error["message"]
        return
    if response.status_code == 400:  # e.g. the few tokens of the candidates have no text
        assert response.json()["error"]["code"] == "generation_failed"
        return
    usage = response.json()["usage"]
    assert usage["completion_tokens"] <= bound
    if own is None and most is None and not given_ones:
        assert usage["completion_tokens"] > bound - streams - k  # and little of it is wasted


@given(n=st.integers(1, 5), bound=st.integers(1, 40))
@example(n=5, bound=4)
@settings(max_examples=15)
def test_nor_has_a_plain_reply(api: httpx.Client, n: int, bound: int) -> None:
    asked = {"messages": MESSAGES, "n": n, "max_completion_tokens": bound, "ignore_eos": True}
    response = api.post(PATH, json=asked)
    assert (response.status_code == 200) == (bound >= n)
    if response.status_code == 200:
        assert bound - n < response.json()["usage"]["completion_tokens"] <= bound


def test_a_limit_of_its_own_leaves_the_rest_to_the_others(api: httpx.Client) -> None:
    def lengths(**fields: Any) -> tuple[list[int], int]:
        body = post(api, max_completion_tokens=100, ignore_eos=True, seed=1, **fields)
        candidates = [one["tokens"] for one in body["gsr"]["candidates"]]
        return candidates, body["usage"]["completion_tokens"] - sum(candidates)

    every = {"k": 4, **SHORT}
    assert lengths(gsr=every) == ([20] * 4, 20)
    assert lengths(gsr={**every, "candidate": {"max_tokens": 10}}) == ([10] * 4, 60)
    candidates, refined = lengths(max_tokens=12, gsr=every)
    assert (candidates, refined) == ([12] * 4, 12)
    wide = {**every, "candidate": {"max_tokens": 50}}
    assert lengths(max_tokens=8, gsr=wide) == ([23] * 4, 8)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("gsr.k", {"gsr": {"k": 0}}),
        ("gsr.k", {"gsr": {"k": 17}}),
        ("gsr.k", {"gsr": {"k": 10**9}}),
        ("model", {"model": "nano:selfref@17"}),
        ("model", {"model": "nano:selfref@0"}),
        ("model", {"model": "nano:selfref@99999"}),
        ("gsr.k", {"model": "nano:selfref@4", "gsr": {"k": 5}}),
        ("gsr.bogus", {"gsr": {"bogus": 1}}),
        ("gsr.seed", {"gsr": {"seed": 1}}),
        ("gsr.refine", {"gsr": {"refine": {}}}),
        ("gsr.layout", {"gsr": {"layout": "round"}}),
        ("gsr.template", {"gsr": {"template": "bogus"}}),
        ("gsr.stream", {"gsr": {"stream": "some"}}),
        ("gsr.candidate.temperature", {"gsr": {"candidate": {"temperature": -1}}}),
        ("gsr.candidate.n", {"gsr": {"candidate": {"n": 2}}}),
        ("gsr.min_candidates", {"gsr": {"min_candidates": 9}}),
        ("gsr.first", {"gsr": {"first": 9}}),
        ("gsr.order", {"gsr": {"order": "as_finished", "widths": [2]}}),
        ("gsr.widths", {"gsr": {"widths": [17]}}),
        ("gsr.candidate_timeout", {"gsr": {"candidate_timeout": -1}}),
        ("gsr.candidate_timeout", {"gsr": {"candidate_timeout": 0}}),
        ("gsr.subset", {"gsr": {"k": 2, "subset": 3}}),
        ("gsr.subset", {"gsr": {"k": 2, "widths": [3], "subset": 4}}),
        ("n", {"n": 17, "gsr": {}}),
        ("seed", {"seed": -1, "gsr": {}}),
        ("top_p", {"top_p": 2, "gsr": {}}),
        ("messages", {"messages": [{"role": "assistant", "content": "a"}], "gsr": {}}),
        ("messages", {"messages": [{"role": "user", "content": " "}], "gsr": {}}),
        ("add_special_tokens", {"add_special_tokens": True, "gsr": {}}),
        ("max_completion_tokens", {"max_completion_tokens": 4, "gsr": {}}),
    ],
    ids=str,
)
def test_a_refinement_that_cannot_be_is_refused_by_name(
    api: httpx.Client, param: str, fields: dict[str, Any]
) -> None:
    assert refused(api, **fields)[0] == param


def test_completions_refine_texts(api: httpx.Client, engine: Engine) -> None:
    params = SelfRefineParams(
        k=2,
        seed=7,
        candidate=SamplingParams(max_tokens=40),
        refine=SamplingParams(max_tokens=40, temperature=0.0),
    )
    expected = [engine.self_refine(PUZZLE, params)[0].text] * 2
    asked = {"model": "nano:selfref@2", "prompt": [PUZZLE] * 2, "seed": 7, "max_tokens": 40}
    body = api.post("/v1/completions", json=asked).json()
    assert [choice["text"] for choice in body["choices"]] == expected
    assert [choice["index"] for choice in body["choices"]] == [0, 1]


@pytest.mark.parametrize(
    ("fields", "rounds"),
    [
        ({}, "all"),
        ({"gsr": {"stream": "all"}}, "all"),
        ({"stream": True}, "inner"),
        ({"stream": True, "gsr": {}}, "inner"),
        ({"stream": True, "gsr": {"stream": "phases"}}, "inner"),
        ({"stream": True, "gsr": {"stream": "all"}}, "none"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "inner"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "none"),
    ],
)
def test_only_tokens_that_are_shown_are_told_one_by_one(
    fields: dict[str, Any], rounds: str
) -> None:
    asked = {"messages": MESSAGES, **fields}
    assert ChatBody.model_validate(asked).coalesce == rounds


def test_a_body_takes_few_events_of_the_engine(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pieces = RefinedNarrator.read, Counter[tuple[int, int]]()

    def counting(self: RefinedNarrator, event: Any) -> Any:
        if isinstance(event, CandidateToken | RefineToken):
            pieces[event.stream] += 1
        return read(self, event)

    monkeypatch.setattr(RefinedNarrator, "read", counting)
    post(api, max_tokens=60, ignore_eos=True, gsr={"k": 2, "stream": "all", **HOT})
    assert set(pieces) == {(0, 0), (0, 1), (1, 0)}
    assert max(pieces.values()) <= 2
