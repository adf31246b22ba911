"""Built-in programs: their prompts' structure, their parameters, and what a template may lack."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import (
    CheckpointError,
    Engine,
    GsrConfig,
    InvalidRequest,
    SamplingParams,
    SelfRefineParams,
    program,
)
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.evaluation.evaluator import Evaluator, Exercise
from gsr_engine.evaluation.grader import ExactGrader
from gsr_engine.programs.program import PROGRAMS
from gsr_engine.programs.template import TEMPLATES, Template
from gsr_engine.text.problem_prompts import ProblemPrompts
from gsr_engine.text.prompts import Prompts
from tests.helpers.chat_tokenizers import chat_tokenizer
from tests.helpers.steps import run_checked
from train.generation.questions import Question, prompt_text

QUESTION, TEXTS = "What is 6 times 7?", ("two", "it is 4.", "5")
TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": QUESTION},
]
SHORT = SamplingParams(max_tokens=6, ignore_eos=True)
GREEDY = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    chat_tokenizer("byte-level", "plain").save_pretrained(folder)
    return Tokenizer.from_folder(folder)


def problem_of(tokenizer: Any, name: str, problem: Any = QUESTION) -> ProblemPrompts:
    return ProblemPrompts(Prompts(tokenizer, GsrConfig()).templated(name), problem)


def linear(tokenizer: Any, name: str, texts: tuple[str, ...]) -> str:
    summaries = [tokenizer.encode_markup(text) for text in texts]
    return str(tokenizer.decode(problem_of(tokenizer, name).linear(summaries)))


def test_the_prompts_that_checkpoints_were_trained_with_stay_as_they_are() -> None:
    assert TEMPLATES["gsr"].hash == "db44800cb6c159e2"
    assert TEMPLATES["restated"].hash == "0d1dc0600d61175b"


def numbered(before: str) -> str:
    """A pattern of all candidates, each behind its number."""
    return ".*".join(before.format(n=n) + "\n" + text for n, text in enumerate(TEXTS, 1))


Q = re.escape(QUESTION)
ORDERS = {
    "gsr": [Q, r"\[Candidate solution\]\ntwo", r"\nit is 4\.", r"\n5\n", "flaws", r"\\boxed"],
    "rsa": [
        *("several attempts", r"\\boxed{}", "Problem:\n\n" + Q),
        *(numbered("---- Solution {n} ----"), "one better solution", r"\\boxed{}"),
    ],
    "pacore": [
        *("list of reference", "Original Problem:\n" + Q, "Reference Responses:"),
        *(numbered("\n\nReference {n}:"), "your own"),
    ],
    "agglm": ["problem:", Q, "attempts", numbered(r"\[Attempt {n}\]"), "all or none", "final"],
    "plain": [Q, numbered(r"\[Draft {n}\]"), "best reply"],
}


@pytest.mark.parametrize("name", ORDERS)
def test_what_a_refinement_reads_in_which_order(tokenizer: Any, name: str) -> None:
    assert re.search(".*".join(ORDERS[name]), linear(tokenizer, name, TEXTS), re.S)


def test_rsa_has_words_of_its_own_for_a_single_solution(tokenizer: Any) -> None:
    one = linear(tokenizer, "rsa", ("two",))
    assert re.search(
        r"an attempt .*Problem:\n\nWhat.*---- Candidate ----\ntwo\n.*better", one, re.S
    )
    assert "Solution 1" not in one
    # A prompt that was opened for several keeps their words if one is all that comes.
    problem = problem_of(tokenizer, "rsa")
    opened = tokenizer.decode(problem.linear([tokenizer.encode_markup("two")], 3))
    assert "several attempts" in opened
    assert "---- Solution 1 ----\ntwo" in opened


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("k", [1, 2, 11])
def test_a_prompt_can_be_written_candidate_by_candidate(tokenizer: Any, name: str, k: int) -> None:
    problem = problem_of(tokenizer, name)
    summaries = [tokenizer.encode_markup(f"it is {i}") for i in range(k)]
    whole, stop = problem.linear(summaries), problem.problem_stop(k)
    written = [*problem.opening(k), *summaries[0]]
    for number, summary in enumerate(summaries[1:], 1):
        written += [*problem.between(number, k), *summary]
    assert whole[: len(written)] == written
    if k > 2:  # fewer may come than it was opened for
        fewer = problem.linear(summaries[:3], k)
        between = [problem.between(number, k) for number in (1, 2)]
        begun = [*problem.opening(k), *summaries[0], *between[0], *summaries[1], *between[1]]
        assert fewer[: len(begun)] == begun
    # As much as can be is shared: the next token differs, or is the last of one of them.
    assert whole[:stop] == problem.direct[:stop]
    ends = min(len(problem.direct), len(problem.opening(k))) - 1
    assert stop == ends or whole[stop] != problem.direct[stop]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("texts", [None, TEXTS[:1], TEXTS])
def test_a_server_is_asked_in_the_same_words(
    tokenizer: Any, name: str, texts: tuple[str, ...] | None
) -> None:
    told = prompt_text(Question("1", QUESTION, candidates=texts), TEMPLATES[name])
    ids = tokenizer.chat([{"role": "user", "content": told}])
    problem = problem_of(tokenizer, name)
    own = (
        problem.direct if texts is None else problem.linear([*map(tokenizer.encode_markup, texts)])
    )
    assert tokenizer.decode(own) == tokenizer.decode(ids)


def test_plain_adds_nothing_to_a_conversation(tokenizer: Any) -> None:
    problem = problem_of(tokenizer, "plain", TURNS)
    assert problem.direct == tokenizer.chat(TURNS)
    told = tokenizer.decode(problem.linear([tokenizer.encode_markup("two")]))
    assert re.search(r"be brief.*hi.*hello.*6 times 7.*\[Draft 1\]\ntwo.*best reply", told, re.S)


def test_the_parameters_of_programs() -> None:
    rsa = program("rsa")
    assert (rsa.template, rsa.k, rsa.subset, rsa.round_widths) == ("rsa", 16, 4, (16,) * 8 + (1,))
    assert (rsa.view, rsa.refine.temperature, rsa.candidate.max_tokens) == ("full", 1.0, 8192)
    assert program("rsa", k=8).widths == (8,) * 8
    assert program("rsa", k=8, widths=(3,)).round_widths == (3, 1)
    high = program("pacore", k=32, widths=(4,), refine={"max_tokens": 9})
    assert (high.round_widths, high.view) == ((4, 1), "summary")
    assert high.refine == SamplingParams(temperature=1.0, top_p=1.0, max_tokens=9)
    own = SamplingParams(temperature=0.3)
    assert program("agglm", candidate=own).candidate == own
    assert program("gsr") == SelfRefineParams(template="gsr")
    for name, one in PROGRAMS.items():
        assert program(name).template == name
        assert one.source
        assert one.about
    for changes, field in (
        ({"name": "rsb"}, "program"),
        ({"name": "rsa", "kk": 3}, "kk"),
        ({"name": "rsa", "refine": {"top": 3}}, r"refine\.top"),
        ({"name": "rsa", "candidate": {"temperature": -1}}, r"candidate\.temperature"),
        ({"name": "rsa", "k": "x"}, "k"),
    ):
        with pytest.raises(InvalidRequest, match=f"^{field}: "):
            program(**changes)


@pytest.mark.parametrize("name", TEMPLATES)
def test_gsr_json_may_name_or_hold_any_template(name: str, tmp_path: Path) -> None:
    config = GsrConfig(template=replace(TEMPLATES[name], date="2024-01-02"))
    config.save(tmp_path)
    assert GsrConfig.from_folder(tmp_path) == config
    (tmp_path / "gsr.json").write_text(json.dumps({"template": name}))
    assert GsrConfig.from_folder(tmp_path).template == TEMPLATES[name]


TEXT = {"direct": "", "preamble": "", "separator": "", "linear": ""}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({**TEXT, "opening": 3}, "template.opening must be a text"),
        ({**TEXT, "alone": {"direct": ""}}, "template.alone must be some of opening, preamble"),
        ({**TEXT, "alone": {"linear": None}}, "template.alone.linear must be a text"),
        ({**TEXT, "answer_form": 1}, "template.answer_form must be true or false, got 1"),
        ({**TEXT, "number": True}, "template must have direct, .* and may have opening, "),
    ],
)
def test_a_bad_template_is_refused_by_name(
    template: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "gsr.json").write_text(json.dumps({"template": template}))
    with pytest.raises(CheckpointError, match=message):
        GsrConfig.from_folder(tmp_path)


def test_a_layout_that_a_template_lacks_is_refused_by_name(qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "gsr.json").write_text(json.dumps({"layouts": ["branched"], "template": "rsa"}))
    with pytest.raises(CheckpointError, match=r"layouts has branched, but template\.branched"):
        GsrConfig.from_folder(tmp_path)
    forced = SelfRefineParams(template="rsa", layout="branched", force_layout=True)
    with (
        Engine.from_pretrained(qwen2, kv_cache_gib=0.02) as engine,
        pytest.raises(InvalidRequest, match=r"^layout: the template 'rsa' has no text"),
    ):
        engine.new_self_refine("1", forced)


def test_what_compares_answers_needs_a_form(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.02) as engine:
        with pytest.raises(InvalidRequest, match=r"^agreement: .* the template 'plain' states no"):
            engine.new_self_refine("1", SelfRefineParams(template="plain", agreement=2))
        evaluator = Evaluator(engine, [Exercise("1", "1")], ExactGrader())
        refused = evaluator.refusal(0, SHORT, SelfRefineParams(template="plain"))
        assert "'plain' states no answer form" in str(refused)
        with pytest.raises(InvalidRequest, match=r"^template: must be one of agglm, gsr"):
            engine.new_self_refine("1", SelfRefineParams(template="nope"))
        boxed = [r"so \boxed{4}"]
        params = SelfRefineParams(template="plain", k=1, refine=GREEDY)
        request = engine.new_self_refine(TURNS, params, candidates=boxed)
        run_checked(engine, [request])
        assert request.result
        assert request.result.text
        assert request.result.answer is None
        # Several refinements are no vote there: the first one is the result.
        drawn = SamplingParams(temperature=1.0, max_tokens=8)
        params = SelfRefineParams(template="plain", k=1, refine=drawn, refinements=3, seed=1)
        several = engine.self_refine([TURNS], params, [boxed])[0]
        assert [one.index for one in several.rounds[-1]] == [0, 1, 2]
        assert several.refinement is several.rounds[-1][0]
    with (
        Engine.from_pretrained(qwen2, kv_cache_gib=0.02, template="plain") as engine,
        pytest.raises(InvalidRequest, match="'plain' states no answer form"),
    ):
        Evaluator(engine, [Exercise("1", "1")], ExactGrader())


def test_a_request_keeps_what_the_checkpoints_chat_template_reads(tokenizer: Any) -> None:
    own = replace(TEMPLATES["gsr"], chat_template_kwargs={}, date="2025-05-05")
    gsr = GsrConfig(template=own).with_template("rsa")
    assert gsr.template == replace(TEMPLATES["rsa"], date="2025-05-05")
    assert gsr.template.name == "'rsa'"
    assert Template(**TEXT).name == "of its own"
    assert Prompts(tokenizer, gsr, date(2020, 1, 1)).templated(None).gsr is gsr


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rounds_over_subsets_share_their_beginning(qwen2: Path) -> None:
    """They read what a fresh prefill of their prompt reads, and the beginning is computed once."""
    params = SelfRefineParams(template="rsa", refinements=4, subset=2, seed=5, refine=GREEDY)
    given = [[20 + i] * 6 for i in range(4)]
    with Engine.from_pretrained(qwen2, dtype="float32", prefix_cache=False) as engine:
        request = engine.new_self_refine(QUESTION, params, candidates=given)
        run_checked(engine, [request])
        result, problem = request.result, request.problem
        assert result
        prompt = problem.linear([given[i] for i in result.used])
        (alone,) = engine.generate(prompt, GREEDY)
        assert result.refinement
        assert alone.completions[0].token_ids == result.refinement.token_ids
        assert result.usage.completion_tokens == 16
        stop, opening = problem.problem_stop(2), len(problem.opening(2))
        usage = result.usage.phases["refine_prefill"]
        assert usage.tokens_computed == (opening - stop) + 4 * (len(prompt) - opening)
        assert usage.reused_prompt == 4 * stop + 3 * (opening - stop)
        assert usage.reused_candidates == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_prompt_is_rendered_while_candidates_finish(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a long problem takes to be rendered, other requests would wait for."""
    # With this seed no candidate begins to think: one that does is not shown.
    params = SelfRefineParams(
        template="pacore", order="as_finished", k=5, candidate=SHORT, refine=GREEDY, seed=1
    )
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.05) as engine:
        request = engine.new_self_refine(QUESTION, params)
        assert not engine.prompts.templated("pacore").begins_thinking  # it renders one turn, once
        monkeypatch.delattr(Tokenizer, "chat_parts")
        run_checked(engine, [request])
    assert request.result
    assert request.result.error is None
    assert len(request.result.used) == 5


@pytest.mark.parametrize("tokens", [20, 33])
def test_rounds_over_subsets_finish_in_the_pages_that_were_counted(
    qwen2: Path, tokens: int
) -> None:
    drawn = SamplingParams(max_tokens=tokens, ignore_eos=True, temperature=0.0)
    params = SelfRefineParams(
        template="rsa", k=3, refinements=3, subset=2, view="full", candidate=drawn, refine=drawn
    )

    def of(pages: int) -> Engine:
        page_bytes = 2 * 3 * 2 * 12 * 4 * 16  # keys and values, layers, heads, head dim, fp32
        gib = (pages * page_bytes + 1) / 2**30
        options = {"dtype": "float32", "kv_cache_gib": gib, "prefix_cache": False}
        return Engine.from_pretrained(qwen2, **options)

    with of(2) as tiny, pytest.raises(InvalidRequest, match="KV pages") as refused:
        tiny.new_self_refine(QUESTION, params)
    pages = int(str(refused.value).partition("may need ")[2].split()[0])
    with of(pages) as enough:
        request = enough.new_self_refine(QUESTION, params)
        run_checked(enough, [request])
    assert request.result
    assert request.result.error is None
    assert request.usage.peak_pages <= pages


def test_a_named_program_is_not_warned_of(qwen2: Path, recwarn: pytest.WarningsRecorder) -> None:
    with Engine.from_pretrained(qwen2, kv_cache_gib=0.05) as engine:
        engine.new_self_refine("1", program("rsa", candidate=SHORT, refine=GREEDY))
    assert not recwarn.list
