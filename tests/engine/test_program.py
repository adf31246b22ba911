"""The refinement program on nano: rounds, subsets, votes, early ends, and their usage counts."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsr_engine import (
    CheckpointError,
    Engine,
    EngineConfig,
    InvalidRequest,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO
from gsr_engine.execution.loading import load_parts
from gsr_engine.text.answers import majority
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

PROBLEMS = [puzzle.problem for puzzle in sample_puzzles("validation", 5, 6)]
TOKENS = SamplingParams(max_tokens=200)
GREEDY = SamplingParams(max_tokens=200, temperature=0.0)
DRAWN = SamplingParams(max_tokens=200, temperature=1.0)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # Without hits, which may change last bits, streams compare whole.
    with Engine.from_pretrained(NANO, dtype="float32", prefix_cache=False) as engine:
        yield engine
        engine.check()
        assert engine.stats()["pages_used"] == 0


def params(**changes: Any) -> SelfRefineParams:
    base = SelfRefineParams(k=4, candidate=TOKENS, refine=GREEDY, seed=3)
    return replace(base, **changes)


def refine(engine: Engine, wanted: SelfRefineParams) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return engine.self_refine(PROBLEMS, wanted)


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_several_refinements_are_put_to_the_vote(engine: Engine, layout: str) -> None:
    different = 0
    for result in refine(engine, params(layout=layout, refinements=5, refine=DRAWN)):
        (final,) = result.rounds
        answers = [engine.find_answer(stream) for stream in final]
        different += len({tuple(stream.token_ids) for stream in final}) > 1
        best = majority(answers)
        assert result.refinement is final[best or 0]
        assert result.answer == answers[best or 0]
        assert len(result.used) == 4
    assert different


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_rounds_read_the_round_before(engine: Engine, layout: str) -> None:
    wanted = params(k=6, layout=layout, widths=(3,), subset=2, refine=DRAWN)
    for result in refine(engine, wanted):
        assert [len(streams) for streams in result.rounds] == [3, 1]
        assert [stream.index for stream in result.rounds[0]] == [0, 1, 2]
        assert len(result.used) == 2
        assert set(result.used) <= {0, 1, 2}
        assert result.refinement is result.rounds[1][0]


def test_a_round_of_everybody_is_one_prompt(engine: Engine) -> None:
    def computed() -> int:
        phases = engine.stats()["phases"]
        return int(phases["refine_prefill"]["tokens_computed"]) if "refine_prefill" in phases else 0

    before = computed()
    one = refine(engine, params())
    between = computed()
    five = refine(engine, params(refinements=5, refine=DRAWN))
    assert computed() - between == between - before > 0
    for a, b in zip(one, five, strict=True):
        assert a.candidates == b.candidates


def test_agreement_stops_the_rest(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # So hot that the candidates differ in length; what they say counts as one answer.
    hot = replace(TOKENS, temperature=2.0)
    monkeypatch.setattr("gsr_engine.text.prompts.find_answer", lambda text, _: text[:1])
    wanted = params(k=8, agreement=2, order="as_generated", candidate=hot)
    results = refine(engine, wanted)
    stopped = 0
    for result in results:
        reasons = [c.finish_reason for c in result.candidates]
        stopped += reasons.count("abort")
        # One that began to think and never ended has nothing to show.
        blind = {
            i
            for i, c in enumerate(result.candidates)
            if c.text.count("<think>") > c.text.count("</think>")
        }
        shown = [i for i, reason in enumerate(reasons) if reason != "abort" and i not in blind]
        assert result.used == shown
        assert bool(result.error) == (not shown)
        if "abort" in reasons:
            answers = [engine.find_answer(result.candidates[i]) for i in result.used]
            assert max(answers.count(answer) for answer in answers if answer) >= 2
    assert stopped
    every = refine(engine, replace(wanted, agreement=0))
    assert all(c.finish_reason != "abort" for result in every for c in result.candidates)


def test_as_finished_reads_in_that_order_while_others_decode(engine: Engine) -> None:
    # Hot enough that the candidates differ in length.
    wanted = params(order="as_finished", candidate=replace(TOKENS, temperature=2.0))
    requests = [engine.new_self_refine(p, wanted, index=i) for i, p in enumerate(PROBLEMS)]
    for request in requests:
        engine.submit(request)
    early = False
    while engine.has_work:
        engine.step()
        early = early or any(
            group.is_refinement and group.prompt.computed and group.open
            for request in requests
            for group in request.groups
        )
    assert early
    shuffled = refine(engine, replace(wanted, order="shuffled"))
    for request, other in zip(requests, shuffled, strict=True):
        result = request.result
        assert result
        assert [c.token_ids for c in result.candidates] == [c.token_ids for c in other.candidates]
        lengths = [len(result.candidates[i].token_ids) for i in result.used]
        assert lengths == sorted(lengths)
        # The same as if these candidates had been given in that order.
        prompts = engine.prompts
        streams = [request.candidates[i] for i in result.used]
        written = [stream.segment.token_ids[: stream.content_length] for stream in streams]
        shown = [prompts.summary(token_ids, 1000).token_ids for token_ids in written]  # type: ignore[union-attr]
        prompt = request.problem.linear(shown)
        assert result.refinement
        alone = engine.generate([prompt], GREEDY)[0].completions[0]
        assert alone.token_ids == result.refinement.token_ids


def test_a_candidate_timeout_shows_what_is_there() -> None:
    now, config = 0.0, EngineConfig(dtype="float32")
    engine = Engine(*load_parts(NANO, config), config, clock=lambda: now)
    request = engine.new_self_refine(PROBLEMS[0], params(candidate_timeout=50.0))
    engine.submit(request)
    for _ in range(20):
        engine.step()
    now = 100.0
    while engine.has_work:
        engine.step()
    result = request.result
    assert result
    assert result.error is None
    assert [c.finish_reason for c in result.candidates] == ["abort"] * 4
    assert sorted(result.used) == [0, 1, 2, 3]
    assert result.refinement
    late = engine.new_self_refine(PROBLEMS[0], params(candidate_timeout=1.0))
    engine.submit(late)
    now = 101.0
    engine.step()
    assert late.result
    assert "candidate timeout" in str(late.result.error)


def test_the_full_view_shows_the_thinking(engine: Engine) -> None:
    thinking = next(p.problem for p in sample_puzzles("validation", 5, 50) if "+" in p.problem)
    given = engine.generate(
        [engine.direct_prompt(thinking)], SamplingParams(n=2, max_tokens=200, seed=1)
    )[0]
    ids = [completion.content_ids for completion in given.completions]
    lengths = {}
    for view in ("summary", "full"):
        request = engine.new_self_refine(thinking, params(view=view), candidates=ids)
        engine.submit(request)
        while engine.has_work:
            engine.step()
        lengths[view] = request.usage.phases["refine_prefill"].tokens_computed
    assert lengths["full"] > lengths["summary"]


def test_usage_tells_queue_batch_pages_and_spans(engine: Engine) -> None:
    results = refine(engine, params(layout="branched"))
    for result in results:
        usage = result.usage
        refined = usage.phases["refine_prefill"]
        assert refined.tokens_reused == refined.reused_prompt + refined.reused_candidates
        assert refined.reused_prompt == usage.prompt_tokens
        assert usage.phases["candidate_decode"].mean_batch_size > 4
        assert usage.queue_seconds >= 0
        streams = sum(-(-(len(c.token_ids) - 1) // 16) for c in result.candidates)
        assert usage.peak_pages >= streams + usage.prompt_tokens // 16


def test_beyond_the_evidence_there_is_one_warning(engine: Engine, qwen2: Path) -> None:
    for wanted, text in (
        (params(k=11), "nothing beyond 10"),
        (params(widths=(2,)), "more than one round"),
    ):
        with pytest.warns(UserWarning, match=text) as seen:
            engine.new_self_refine(PROBLEMS[0], wanted)
        assert len(seen) == 1
    with (
        Engine.from_pretrained(qwen2) as untrained,
        pytest.warns(UserWarning, match=r"no gsr\.json"),
    ):
        untrained.new_self_refine("1", SelfRefineParams())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.new_self_refine(PROBLEMS[0], params(k=10))


def test_reloaded_weights_are_used_from_the_next_step_on(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in NANO.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = load_file(other / "model.safetensors")
    torch.manual_seed(0)
    weights = {name: w + 0.3 * torch.randn_like(w) * w.std() for name, w in weights.items()}
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    prompt = [7] * 40
    short = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        running = engine.new_generate(prompt, short)
        engine.submit(running)
        for _ in range(5):
            engine.step()
        drawn = list(running.streams[0].segment.token_ids)
        engine.reload_weights(other)
        engine.check()
        while engine.has_work:
            engine.step()
        assert running.result
        assert drawn == running.result.completions[0].token_ids[: len(drawn)]
        mine = engine.generate([prompt], short)[0].completions[0].token_ids
        rest = engine.generate([prompt + drawn], short)[0].completions[0].token_ids
        raw = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(
            json.dumps({**raw, "rope_parameters": {"rope_theta": 7}})
        )
        with pytest.raises(CheckpointError, match="another model"):
            engine.reload_weights(other)
        assert engine.generate([prompt], short)[0].completions[0].token_ids == mine
    (other / "config.json").write_text(json.dumps(raw))
    with Engine.from_pretrained(other, dtype="float32") as fresh:
        assert fresh.generate([prompt], short)[0].completions[0].token_ids == mine
    # What ran when the weights changed went on as the new weights go on from its tokens.
    assert running.result.completions[0].token_ids[len(drawn) :] == rest[: 12 - len(drawn)]


def test_a_program_that_raises_fails_its_request_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = (engine.new_self_refine(problem, params()) for problem in PROBLEMS[:2])
    expected = engine.self_refine(PROBLEMS[1:2], params())[0]

    def fail(*_: object) -> None:
        raise KeyError("nobody expected this")

    monkeypatch.setattr(broken, "group_finished", fail)
    run_checked(engine, (broken, other))
    assert broken.result
    assert "nobody expected this" in str(broken.result.error)
    assert other.result
    assert other.result.candidates == expected.candidates


def test_another_engine_refines(engine: Engine) -> None:
    """A second engine with the same checkpoint refines: as if it had been given the candidates."""
    with Engine.from_pretrained(NANO, dtype="float32") as other:
        results = engine.self_refine(PROBLEMS, params(order="as_generated"), refiner=other)
        before = other.stats()["completion_tokens"]
        for index, (problem, result) in enumerate(zip(PROBLEMS, results, strict=True)):
            shown = [engine.solution_text(candidate) for candidate in result.candidates]
            alone = other.self_refine(
                [problem], params(order="as_generated"), [[t for t in shown if t]]
            )[0]
            assert result.refinement
            assert alone.refinement
            assert result.refinement.token_ids == alone.refinement.token_ids
            assert result.used == [i for i, text in enumerate(shown) if text], index
            drawn = sum(len(c.token_ids) for c in (*result.candidates, result.refinement))
            assert result.usage.completion_tokens == drawn
        assert before == sum(len(r.refinement.token_ids) for r in results if r.refinement)
        itself = other.self_refine(PROBLEMS[:2], params(order="as_generated"), refiner=other)
        assert all(result.refinement for result in itself)
        with pytest.raises(InvalidRequest, match="agreement"):
            engine.self_refine(PROBLEMS, params(agreement=2), refiner=other)
        with pytest.raises(InvalidRequest, match="refiner"):
            engine.self_refine(["1"], params(), [["x"]], refiner=other)


@pytest.mark.parametrize("order", ["as_finished", "shuffled"])
@pytest.mark.parametrize("summary_tokens", [100, 1000])
def test_an_accepted_request_finishes_alone_in_the_pages_that_were_counted(
    order: str, summary_tokens: int
) -> None:
    wanted = params(
        order=order,
        view="full",
        summary_tokens=summary_tokens,
        candidate=SamplingParams(max_tokens=400, ignore_eos=True),
        refine=SamplingParams(max_tokens=20, temperature=0.0),
    )

    def of(pages: int) -> Engine:
        page_bytes = 2 * 3 * 2 * 32 * 4 * 16  # keys and values, layers, heads, head dim, fp32
        gib = (pages * page_bytes + 1) / 2**30
        return Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=gib, prefix_cache=False)

    with of(2) as tiny, pytest.raises(InvalidRequest, match="KV pages") as refused:
        tiny.new_self_refine("1 * 2", wanted)
    pages = int(str(refused.value).partition("may need ")[2].split()[0])
    with of(pages - 1) as short, pytest.raises(InvalidRequest, match="KV pages"):
        short.new_self_refine("1 * 2", wanted)
    with of(pages) as enough:
        result = enough.self_refine(["1 * 2"], wanted)[0]
    assert result.error is None
    assert result.refinement
