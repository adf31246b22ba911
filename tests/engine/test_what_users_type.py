"""What users of transformers and vLLM type is taken, and means what it means there."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gsr_engine import Engine, GsrConfig, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.demo.puzzles import sample_puzzles
from gsr_engine.demo.report import NANO

PROBLEM = sample_puzzles("validation", 5, 1)[0].problem
SHORT = SamplingParams(max_tokens=4, seed=1, temperature=0.0)
REFINE = SelfRefineParams(
    k=2,
    seed=1,
    candidate=SamplingParams(max_tokens=90),
    refine=SamplingParams(max_tokens=9, temperature=0.0),
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=0.02) as engine:
        yield engine


def ids(results: list[Any]) -> list[list[int]]:
    return [one.completions[0].token_ids for one in results]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"stop": "END"}, {"stop": ("END",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": None}, {"stop": ()}),
        ({"stop_token_ids": [np.int64(5), 6]}, {"stop_token_ids": (5, 6)}),
        ({"stop_token_ids": list(range(1024))}, {"stop_token_ids": tuple(range(1024))}),
        ({"stop_token_ids": 5}, {"stop_token_ids": (5,)}),
        ({"stop_token_ids": None}, {"stop_token_ids": ()}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"n": np.int32(2), "max_tokens": np.int64(7)}, {"n": 2, "max_tokens": 7}),
        ({"seed": np.uint8(3), "temperature": np.float32(0.5)}, {"seed": 3, "temperature": 0.5}),
        ({"temperature": 1}, {"temperature": 1.0}),
    ],
)
def test_sampling_params(given: dict[str, Any], kept: dict[str, Any]) -> None:
    made = SamplingParams(**given)
    assert made == SamplingParams(**kept)
    assert hash(made) == hash(SamplingParams(**kept))
    for name, value in kept.items():
        assert type(getattr(made, name)) is type(value)


def test_self_refine_params() -> None:
    made = SelfRefineParams(
        k=np.int64(8), widths=[np.int64(2)], subset=np.int8(1), candidate_timeout=3
    )
    assert made == SelfRefineParams(k=8, widths=(2,), subset=1, candidate_timeout=3.0)
    assert type(made.k) is type(made.widths[0]) is int


def test_one_prompt_stands_for_a_list(engine: Engine) -> None:
    expected = engine.generate([PROBLEM], SHORT)
    prompt = expected[0].prompt_token_ids
    for given in (PROBLEM, prompt, tuple(prompt), [np.array(prompt).tolist()], np.array(prompt)):
        assert ids(engine.generate(given, SHORT)) == ids(expected)
    (result,) = engine.generate([[np.int64(token) for token in prompt]], SHORT)
    assert result.prompt_token_ids == prompt
    assert {type(token) for token in result.prompt_token_ids} == {int}
    assert len(engine.generate([PROBLEM, prompt], SHORT)) == 2


def test_one_conversation_stands_for_a_list(engine: Engine) -> None:
    talk = [{"role": "user", "content": PROBLEM}]
    assert ids(engine.chat(talk, SHORT)) == ids(engine.chat([talk], SHORT))
    assert len(engine.chat([talk, talk], SHORT)) == 2


def test_one_problem_stands_for_a_list(engine: Engine) -> None:
    (one,), (other,) = engine.self_refine(PROBLEM, REFINE), engine.self_refine([PROBLEM], REFINE)
    assert [c.token_ids for c in one.candidates] == [c.token_ids for c in other.candidates]
    given = ["a1", "b2"]
    for nested in (given, [given]):
        (result,) = engine.self_refine(PROBLEM, REFINE, candidates=nested)
        assert [c.text for c in result.candidates] == given


@pytest.mark.parametrize("items", [{"a": 1}, b"text", 5, None])
def test_what_is_no_list(engine: Engine, items: Any) -> None:
    for call in (engine.generate, engine.chat, engine.self_refine):
        with pytest.raises(InvalidRequest, match="must be a list"):
            call(items)


@pytest.mark.parametrize("other", ["path", 5, Engine])
def test_a_refiner_is_an_engine(engine: Engine, other: Any) -> None:
    with pytest.raises(InvalidRequest, match="refiner: must be an Engine, got"):
        engine.self_refine([PROBLEM], REFINE, refiner=other)


def test_options_of_the_engine() -> None:
    with Engine.from_pretrained(
        NANO, max_num_seqs=np.int64(8), kv_cache_gib=np.float32(0.01), max_model_len=np.int16(99)
    ) as engine:
        assert engine.limits.max_model_len == 99
        assert type(engine.limits.max_num_seqs) is int


def test_a_warning_is_one_line_and_comes_once(
    qwen2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        Engine.from_pretrained(qwen2, kv_cache_gib=0.02) as writer,
        Engine.from_pretrained(qwen2, kv_cache_gib=0.02) as refiner,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        warnings.showwarning = _shown_as_python_does
        for _ in range(2):
            writer.self_refine("1+1", REFINE)
            writer.self_refine("1+1", REFINE, refiner=refiner)
    shown = capsys.readouterr().err
    assert shown.startswith("gsr_engine:0: UserWarning: the checkpoint was not trained to")
    assert shown.count("\n") == 1


def _shown_as_python_does(*arguments: Any) -> None:
    sys.stderr.write(warnings.formatwarning(*arguments[:4]))


def test_a_claim_is_told_only_where_there_is_one(qwen2: Path) -> None:
    branched = SelfRefineParams(layout="branched")
    with (
        Engine.from_pretrained(qwen2, kv_cache_gib=0.02) as untrained,
        pytest.raises(InvalidRequest, match=r"'branched' \(no gsr\.json\); force_layout=True"),
    ):
        untrained.self_refine("1", branched)


def test_prompts_of_ones_own(qwen2: Path, tmp_path: Path) -> None:
    texts = {"direct": " A", "preamble": " B", "separator": " C", "linear": " D", "branched": " E"}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"template": {**texts, "restate": None}}))
    for template, expected in ((file, "1+1 A"), (str(file), "1+1 A"), ("restated", "Solve")):
        with Engine.from_pretrained(qwen2, kv_cache_gib=0.02, template=template) as engine:
            assert expected in engine.tokenizer.decode(engine.direct_prompt("1+1"))
            assert not engine.gsr.trained  # the file is the user's, and claims no training
            assert engine.gsr.thinking == GsrConfig().thinking
    for template in ("nope", 5):
        with pytest.raises(InvalidRequest, match="template: must be agglm, gsr, "):
            Engine.from_pretrained(qwen2, template=template)
    file.write_text(json.dumps({"layouts": ["branched"]}))
    with pytest.raises(InvalidRequest, match="has no template"):
        Engine.from_pretrained(qwen2, template=file)
