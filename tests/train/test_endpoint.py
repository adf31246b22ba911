"""Samples from a server that is busy, slow, broken, or gone."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.programs.template import TEMPLATES
from tests.helpers.drawers import CONFIG, PROMPTS, contents, open_store
from tests.helpers.fake_server import Answer, FakeServer
from train.command import show_log
from train.generate import run
from train.generation.chat_client import EndpointError
from train.generation.endpoint_drawer import EndpointDrawer
from train.generation.job import GenerationJob
from train.generation.questions import Question, prompt_text
from train.generation.store import Store
from train.generation.worker import Tally, generate
from train.samples import read_samples

pytestmark = pytest.mark.slow

GSR = GsrConfig(template=TEMPLATES["restated"])
BROKEN = {"error": {"message": "broken", "type": "x", "code": None}}


def draw(folder: Path, url: str, store: Store | None = None, **options: Any) -> Tally:
    budget = options.pop("budget", None)
    with EndpointDrawer(CONFIG, GSR, url, **options) as drawer:
        return generate(store or open_store(folder), drawer, ExactGrader(), budget=budget)


def asks(body: dict[str, Any], number: int) -> bool:
    """Whether a request is for one of our prompts."""
    return bool(body["messages"][0]["content"].startswith(PROMPTS[number].problem))


def test_a_server_draws_every_sample_with_a_seed_of_its_own(tmp_path: Path) -> None:
    with FakeServer(seconds=0.02) as server:
        tally = draw(tmp_path, server.url, concurrency=3)
    assert server.most_at_once == 3
    bodies = [body for _, body in server.requests]
    assert len({body["seed"] for body in bodies}) == len(bodies) == 21
    texts = {prompt_text(prompt, GSR.template) for prompt in PROMPTS}
    assert {body["messages"][0]["content"] for body in bodies} == texts
    assert all(body["max_tokens"] == 8 and body["model"] == "stub" for body in bodies)
    gold = {prompt.id: prompt.answer for prompt in PROMPTS}
    for record in read_samples(tmp_path):
        assert record["text"] == f"It is \\boxed{{{record['answer']}}}."
        assert record["correct"] == (record["answer"] == gold[record["id"]])
        assert record["token_ids"] is None
        assert record["logprob"] is None
    assert tally.tokens == sum(record["num_tokens"] for record in read_samples(tmp_path))


def test_what_passes_is_tried_again_and_changes_nothing(tmp_path: Path) -> None:
    def misbehave(body: dict[str, Any], tries: int) -> Answer | None:
        if asks(body, 2) and tries < 2:
            return 500, {}, BROKEN
        if asks(body, 4) and tries < 1:
            return 429, {"Retry-After": "1"}, BROKEN
        return None

    with FakeServer() as server:
        draw(tmp_path / "well", server.url)
    with FakeServer(misbehave) as server:
        tally = draw(tmp_path / "ill", server.url)
    assert tally.failed == 0
    assert contents(tmp_path / "ill") == contents(tmp_path / "well")
    for number, tries, wait in ((2, 3, 0.3), (4, 2, 1.0)):
        by_seed: dict[int, list[float]] = {}
        for when, body in server.requests:
            if asks(body, number):
                by_seed.setdefault(body["seed"], []).append(when)
        assert [len(times) for times in by_seed.values()] == [tries] * 3
        for times in by_seed.values():  # the server was left alone for a while
            assert all(later - sooner >= wait for sooner, later in pairwise(times))


@pytest.mark.parametrize("trouble", ["refusal", "error", "silence", "nonsense"])
def test_a_request_that_fails_for_good_is_a_failed_sample(tmp_path: Path, trouble: str) -> None:
    def misbehave(body: dict[str, Any], tries: int) -> Answer | None:
        if not asks(body, 1):
            return None
        if trouble == "silence":
            time.sleep(1.0)
        answers = {"refusal": (400, {}, BROKEN), "error": (500, {}, BROKEN)}
        return answers.get(trouble, (200, {}, {"id": "x", "choices": []}))

    with FakeServer(misbehave) as server:
        tally = draw(tmp_path, server.url, retries=1, timeout=0.5)
        failed = [one for one in read_samples(tmp_path) if one["finish_reason"] == "error"]
        assert [(one["id"], one["sample"]) for one in failed] == [("p1", i) for i in range(3)]
        assert all(one["error"] for one in failed)
        assert tally.failed == 3
        tries = sum(asks(body, 1) for _, body in server.requests)
        # A server under load may not have read a request before it timed out.
        most = {"refusal": 3, "error": 6, "silence": 6, "nonsense": 3}[trouble]
        assert (3 if trouble == "silence" else most) <= tries <= most
        draw(tmp_path, server.url)
        assert sum(asks(body, 1) for _, body in server.requests) == tries
    open_store(tmp_path).reopen_failed()
    with FakeServer() as server:
        draw(tmp_path, server.url, open_store(tmp_path, retry_failed=True))
        assert len(server.requests) == 3
    assert all(one["finish_reason"] == "stop" for one in read_samples(tmp_path))


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_server_that_is_of_no_use_ends_the_run_and_fails_nothing(
    tmp_path: Path, status: int
) -> None:
    def misbehave(body: dict[str, Any], tries: int) -> Answer | None:
        return (status, {}, BROKEN) if len(server.requests) > 9 else None

    with FakeServer(misbehave) as server, pytest.raises(EndpointError, match="broken"):
        draw(tmp_path, server.url, concurrency=1, retries=0)
    there = list(read_samples(tmp_path))
    assert len(there) == 9
    assert all(one["finish_reason"] == "stop" for one in there)
    assert not list(tmp_path.glob("*.lease"))
    with FakeServer() as server:
        draw(tmp_path, server.url)
    assert len(server.requests) == 12


def test_a_server_that_is_gone_is_named(tmp_path: Path) -> None:
    with FakeServer() as server:
        url = server.url
    with pytest.raises(EndpointError, match=f"{url}: Connection error"):
        draw(tmp_path, url, retries=1)
    assert list(read_samples(tmp_path)) == []


def test_the_budget_of_tokens_is_kept(tmp_path: Path) -> None:
    with FakeServer() as server:
        tally = draw(tmp_path, server.url, budget=40)
        assert tally.out_of_budget
        assert 32 < tally.tokens <= 40
        assert len(server.requests) == tally.samples == len(list(read_samples(tmp_path)))
        draw(tmp_path, server.url)
        assert len(server.requests) == 21


def test_thinking_stays_with_the_text_and_hides_its_answers(tmp_path: Path) -> None:
    for number, (message, answer) in enumerate(
        [
            ({"reasoning_content": "maybe \\boxed{3}", "content": "so \\boxed{4}"}, "4"),
            ({"content": "<think>\nmaybe \\boxed{3}\n</think>\nso \\boxed{4}"}, "4"),
            ({"content": "maybe \\boxed{3}</think>so \\boxed{4}"}, "4"),
            ({"content": "<think>maybe \\boxed{3}"}, None),
        ]
    ):
        folder = tmp_path / str(number)
        with FakeServer(message=message) as server:
            store = Store(folder, CONFIG, [Question("a", "1", "4")], 1)
            draw(folder, server.url, store)
        (record,) = read_samples(folder)
        assert record["answer"] == answer
        assert "maybe \\boxed{3}" in record["text"]
        assert ("</think>" in record["text"]) == (answer is not None)


def test_a_job_for_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "refine.jsonl"
    data.write_text('{"id": "r", "problem": "1 + 1", "answer": "2", "candidates": ["3", "2"]}\n')
    with FakeServer() as server:
        job = GenerationJob(
            task="refine",
            data=str(data),
            model="teacher",
            out=tmp_path / "out",
            n=2,
            max_tokens=8,
            top_k=5,
            base_url=server.url,
            budget_tokens=8,
        )
        show_log()
        run(job, 1)
    assert "1/2 samples (50.0%)" in (said := capsys.readouterr().err)
    assert "the budget is spent" in said
    ((_, body),) = server.requests
    expected = prompt_text(Question("r", "1 + 1", "2", ("3", "2")), GsrConfig().template)
    assert body["messages"] == [{"role": "user", "content": expected}]
    assert body["top_k"] == 5
