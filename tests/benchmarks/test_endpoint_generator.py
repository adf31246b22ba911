"""A run against a server: the same prompts, the same order of work, and it goes on like any run."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.__main__ import AccuracyCommand, main
from benchmarks.accuracy.journal import Journal
from benchmarks.accuracy.models import opened
from benchmarks.accuracy.run import measure
from benchmarks.samples.folder import Run, read_run
from gsr_engine import AsyncEngine
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.demo.report import NANO
from gsr_engine.errors import InvalidRequest
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.programs.template import TEMPLATES
from gsr_engine.seeds import derive_seed
from gsr_engine.serving import Settings, create_app
from tests.helpers.accuracy_runs import EVERY, unmeasured
from tests.helpers.fake_server import Answer, FakeServer
from tests.helpers.live_server import live
from train.generation.chat_client import EndpointError
from train.generation.questions import Question, prompt_text

pytestmark = pytest.mark.slow

PROBLEMS = [f"How much is {i} and {i}?" for i in range(3)]
BROKEN = {"error": {"message": "this is broken", "type": "x", "code": None}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data.jsonl"
    rows = [{"id": f"p{i}", "problem": text, "answer": i} for i, text in enumerate(PROBLEMS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run(url: str, data: Path, out: Path, **changed: Any) -> Run:
    options = {"k": "1,3", "max_tokens": 12, "seed": 3, "methods": "greedy,selfref", **changed}
    model = {"endpoint": url, "model": "served", **options}
    command = AccuracyCommand(data=str(data), out=out, **model)
    problems = command.load_problems(command.find_task())
    with opened(command, problems) as models:
        about = {"task": "file", **models.about}
        return measure(models.generator, problems, ExactGrader(), command, out, about)


def asked(server: FakeServer) -> list[dict[str, Any]]:
    return [body for _, body in server.requests]


def content(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def test_every_method_asks_by_the_local_prompts(tmp_path: Path, data: Path) -> None:
    with FakeServer() as server:
        done = run(server.url, data, tmp_path / "run", methods=EVERY, repeats=2)
        bodies = asked(server)
    prompts = Counter(content(body) for body in bodies)
    template, merged = GsrConfig().template, TEMPLATES["agglm"]
    for sample in done.samples:
        direct = prompt_text(Question("", sample.problem), template)
        assert prompts[direct] == 2 * (3 + 1)  # repeats of three candidates, and of greedy
        texts = [one.text for one in sample.candidates]
        for method in done.methods:
            answer = sample.answer_of(method.name)
            assert answer.error is None
            assert 0 < answer.tokens <= answer.sequential_tokens <= answer.generated_tokens
            if method.kind in ("selfref", "fusion", "orders", "views", "repeated"):
                assert len(answer.used) == method.k
                shown = tuple(texts[number] for number in answer.used)
                words = merged if method.kind == "fusion" else template
                assert prompts[prompt_text(Question("", sample.problem, None, shown), words)]
        orders = [tuple(sample.answer_of(one).used) for one in orders_of(done)]
        assert len(set(orders)) == len(orders) == 3
        assert sample.answer_of("repeated linear@3").used == [0, 0, 0]
        assert sorted(sample.answer_of("mixed linear@3 foreign .33").pools) == [
            "foreign",
            "own",
            "own",
        ]
    directly = {prompt_text(Question("", text), template) for text in PROBLEMS}
    candidates = [body for body in bodies if content(body) in directly and body["temperature"]]
    assert len(candidates) == 2 * 3 * len(PROBLEMS)
    assert len({(content(body), body["seed"]) for body in candidates}) == len(candidates)
    assert all(body["max_tokens"] == 12 and body["model"] == "served" for body in bodies)
    settings = done.settings
    assert settings["endpoint"] == server.url
    assert settings["weights"] == "served as served"
    assert settings["summary_tokens"] is None
    assert settings["layouts"] == ["linear"]
    assert {one.repeat for one in done.samples} == {0, 1}


def orders_of(done: Run) -> list[str]:
    return [
        one.name for one in done.methods if one.kind == "orders" or one.name == "selfref linear@3"
    ]


@pytest.mark.parametrize("results", [2, 8])
def test_a_run_goes_on_where_it_was_interrupted(
    results: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as server:
        whole = run(server.url, data, tmp_path / "whole", methods="greedy,selfref,rounds")
        wanted = {json.dumps(body, sort_keys=True) for body in asked(server)}
    add = Journal.add

    def interrupted(journal: Journal, *result: Any) -> None:
        if len(journal) == results:
            raise KeyboardInterrupt
        add(journal, *result)

    out = tmp_path / "run"
    with FakeServer() as server:
        monkeypatch.setattr(Journal, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(server.url, data, out, methods="greedy,selfref,rounds")
        monkeypatch.undo()
        resumed = run(server.url, data, out, methods="greedy,selfref,rounds")
        assert {json.dumps(body, sort_keys=True) for body in asked(server)} == wanted
        before = len(server.requests)
        run(server.url, data, out, methods="greedy,selfref,rounds")
        assert len(server.requests) == before
    facts, samples = unmeasured(resumed)
    expected, all_at_once = unmeasured(whole)
    assert samples == all_at_once
    for settings in (facts["settings"], expected["settings"]):
        settings["endpoint"] = None  # another server, so another port
    assert facts["settings"] == expected["settings"]


def test_logprobs_are_kept_and_a_server_without_them_is_asked_plainly(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tells(body: dict[str, Any], tries: int) -> Answer | None:
        if not body.get("logprobs"):
            return None
        tokens = [
            {"token": "a", "logprob": -0.123456, "bytes": None, "top_logprobs": []},
            {"token": "b", "logprob": -2.0, "bytes": None, "top_logprobs": []},
        ]
        message = {"role": "assistant", "content": "\\boxed{1}"}
        details = {"cached_tokens": 30}
        usage = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        choice["logprobs"] = {"content": tokens, "refusal": None}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        usage["prompt_tokens_details"] = details  # type: ignore[assignment]
        return 200, {}, {**head, "choices": [choice], "usage": usage}

    def refuses(body: dict[str, Any], tries: int) -> Answer | None:
        return (400, {}, BROKEN) if body.get("logprobs") else None

    with FakeServer(tells) as server:
        (first, *_) = run(server.url, data, tmp_path / "tells", k="2").samples
    assert [one.logprobs for one in first.candidates] == [[-0.1235, -2.0]] * 2
    assert {one.finish_reason for one in first.candidates} == {"length"}
    assert first.prompt_tokens == 40
    assert first.answer_of("greedy").computed_tokens == 42  # whatever the server still had
    with caplog.at_level("INFO"), FakeServer(refuses) as server:
        done = run(server.url, data, tmp_path / "refuses", k="2", concurrency=1)
        plain = [body for body in asked(server) if not body.get("logprobs")]
    assert "the server tells no log-probabilities" in caplog.text
    assert {tuple(one.logprobs) for sample in done.samples for one in sample.candidates} == {()}
    assert len(server.requests) <= len(plain) + 4  # those that were on their way


def test_what_a_server_refuses_is_left_out_or_fails_in_its_own_words(
    tmp_path: Path, data: Path
) -> None:
    """No candidates, no problem; a refused refinement is a wrong answer."""
    direct = {text: prompt_text(Question("", text), GsrConfig().template) for text in PROBLEMS}

    def refuses(body: dict[str, Any], tries: int) -> Answer | None:
        text = content(body)
        bad = text == direct[PROBLEMS[1]] or (PROBLEMS[2] in text and text != direct[PROBLEMS[2]])
        return (413, {}, BROKEN) if bad else None

    with FakeServer(refuses) as server:
        done = run(server.url, data, tmp_path / "run")
    assert [one.id for one in done.samples] == ["p0", "p2"]
    ((id, reason),) = done.facts["left_out"]
    assert id == "p1"
    assert "this is broken" in reason
    well, ill = done.samples
    assert well.answer_of("selfref linear@3").error is None
    failed = ill.answer_of("selfref linear@3")
    assert (failed.finish_reason, failed.correct, failed.answer) == ("error", False, None)
    assert "this is broken" in str(failed.error)


def test_a_server_that_is_of_no_use_any_more_leaves_a_run_to_go_on_with(
    tmp_path: Path, data: Path
) -> None:
    def leaves(body: dict[str, Any], tries: int) -> Answer | None:
        return (401, {}, BROKEN) if len(server.requests) > 6 else None

    out = tmp_path / "run"
    with FakeServer(leaves) as server, pytest.raises(EndpointError, match="this is broken"):
        run(server.url, data, out, concurrency=1)
    assert [path.name for path in out.iterdir()] == ["journal"]


def test_a_problem_is_not_left_out_because_the_server_has_gone(tmp_path: Path, data: Path) -> None:
    """One candidate fails for good while another finds nobody: the run goes on later."""

    first = derive_seed(3, 0, 0, 0) >> 32

    def leaves(body: dict[str, Any], tries: int) -> Answer | None:
        return (413 if body["seed"] == first else 401), {}, BROKEN

    with FakeServer(leaves) as server, pytest.raises(EndpointError, match="this is broken"):
        run(server.url, data, tmp_path / "run", k="3", limit=1)


def test_what_no_file_can_hold_is_replaced(tmp_path: Path, data: Path) -> None:
    with FakeServer(message={"content": "\ud800 so \\boxed{1}"}) as server:
        done = run(server.url, data, tmp_path / "run", k="2", methods="greedy")
    assert done.samples[0].answer_of("greedy").text == "? so \\boxed{1}"


def test_candidates_without_an_end_of_their_thinking_are_not_shown(
    tmp_path: Path, data: Path
) -> None:
    def thinks(body: dict[str, Any], tries: int) -> Answer | None:
        seed = body["seed"]
        text = "<think>never" if seed % 2 else "<think>maybe</think>\n\\boxed{1}"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        head = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
        return 200, {}, {**head, "choices": [choice], "usage": usage}

    with FakeServer(thinks) as server:
        done = run(server.url, data, tmp_path / "run", k="4", methods="selfref,views")
        prompts = [content(body) for body in asked(server)]
    for sample in done.samples:
        ended = [i for i, one in enumerate(sample.candidates) if one.answer is not None]
        answer = sample.answer_of("selfref linear@4")
        assert sorted(answer.used) == ended
        if not ended:
            assert answer.error == "0 of 4 candidates are usable"
        assert sorted(sample.answer_of("views linear@4").used) == [0, 1, 2, 3]
    assert any("never" in text for text in prompts)
    assert all("maybe" not in text or "<think>" in text for text in prompts)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"layouts": "branched"}, "layouts"),
        ({"template": "plain"}, "template"),
        ({"model": str(NANO)}, "model"),
        ({"adapter": "some"}, "adapter"),
    ],
)
def test_what_no_server_can_do_is_refused_before_it_is_asked(
    options: dict[str, Any], field: str, tmp_path: Path, data: Path
) -> None:
    with FakeServer() as server:
        with pytest.raises(InvalidRequest) as caught:
            run(server.url, data, tmp_path / "run", **options)
        assert server.requests == []
    assert caught.value.field == field


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    engine = AsyncEngine.from_pretrained(NANO, threads=1, kv_cache_gib=0.05)
    with live(create_app(engine, settings=Settings(model_name="nano"))) as url:
        yield url
    asyncio.run(engine.close())


def plain(text: str) -> str:
    """Without the white space around thinking, which a server sends in a field of its own."""
    return "".join(text.split())


def test_our_own_server_answers_as_the_engine_does(address: str, tmp_path: Path) -> None:
    """At temperature 0 both read the same words, so they write the same."""
    options: dict[str, Any] = {
        "limit": 3,
        "k": "2",
        "temperature": 0.0,
        "order": "as_generated",
        "layouts": "linear",
        "max_tokens": 200,
        "methods": "greedy,selfref",
    }
    served = tmp_path / "served"
    main(
        AccuracyCommand(
            endpoint=f"{address}/v1",
            model="nano",
            template=str(NANO / "gsr.json"),
            task="puzzles",
            out=served,
            **options,
        )
    )
    local = tmp_path / "local"
    main(AccuracyCommand(task="puzzles", out=local, **options))
    for there, here in zip(read_run(served).samples, read_run(local).samples, strict=True):
        assert [plain(one.text) for one in there.candidates] == [
            plain(one.text) for one in here.candidates
        ]
        for name in ("greedy", "selfref linear@2"):
            one, other = there.answer_of(name), here.answer_of(name)
            assert plain(one.text) == plain(other.text)
            assert (one.answer, one.correct) == (other.answer, other.correct)
            assert (one.tokens, one.prompt_tokens) == (other.tokens, other.prompt_tokens)
            assert one.logprobs == pytest.approx(other.logprobs, abs=2e-4)
