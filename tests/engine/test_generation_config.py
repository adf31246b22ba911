"""What None in the sampling parameters stands for, by checkpoint and by choice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from gsr_engine import (
    CheckpointError,
    Engine,
    GenerateResult,
    InvalidRequest,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.checkpoint.generation_config import OWN, GenerationConfig

QWEN3 = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
STATED = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.3}
pytestmark = pytest.mark.filterwarnings("ignore:the checkpoint was not trained:UserWarning")


def numbers(params: SamplingParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in OWN}


def stating(folder: Path, values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "generation_config.json").write_text(text)
    return folder


def test_a_file_states_what_transformers_reads_in_it(tmp_path: Path) -> None:
    for values in (QWEN3, STATED, {"eos_token_id": 2}, {"temperature": None, "top_k": 50}):
        ours = GenerationConfig.of_checkpoint(stating(tmp_path, values), "auto")
        theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
        read = {name: getattr(theirs, name) for name in OWN}
        assert ours.stated == {name: value for name, value in read.items() if value is not None}
        assert not ours.notes


def test_given_goes_before_stated_and_stated_before_own() -> None:
    stated = GenerationConfig.from_fields("here", QWEN3)
    assert numbers(stated.fill(SamplingParams())) == {**OWN, "temperature": 0.6, "top_k": 20} | {
        "top_p": 0.95
    }
    given = SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    assert stated.fill(given) == given
    assert numbers(GenerationConfig().fill(SamplingParams())) == OWN
    kept = SamplingParams(n=3, max_tokens=5, seed=1, stop=("a",))
    assert stated.fill(kept).stop == ("a",)
    # Nothing is taken that changes no greedy draw.
    every = GenerationConfig.from_fields("here", STATED).fill(SamplingParams(temperature=0.0))
    assert numbers(every) == {**OWN, "temperature": 0.0, "repetition_penalty": 1.3}
    assert GenerationConfig.from_fields("here", {"top_k": -1}).stated == {"top_k": 0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": "hot"}, "temperature: must be a number from 0 to 100, got 'hot'"),
        ({"temperature": -0.1}, "temperature: must be a number from 0 to 100, got -0.1"),
        ({"temperature": True}, "temperature: must be a number from 0 to 100, got True"),
        ({"top_k": 2.5}, "top_k: must be an integer from 0 to"),
        ({"top_p": 0}, "top_p: must be above 0, got 0"),
        ({"top_p": [0.9]}, "top_p: must be a number from 0 to 1, got"),
        ({"min_p": 1.5}, "min_p: must be a number from 0 to 1, got 1.5"),
        ({"repetition_penalty": 10**400}, "repetition_penalty: must be a number from 0.01 to"),
        ('{"temperature": NaN}', "'NaN' is no finite number"),
        ('{"top_p": 1e400}', "'1e400' is no finite number"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_bad_values_are_refused_with_file_and_field(
    values: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        GenerationConfig.of_checkpoint(stating(tmp_path, values))
    assert "generation_config.json" in str(caught.value)
    assert message in str(caught.value)
    assert GenerationConfig.of_checkpoint(tmp_path, "none") == GenerationConfig()


def test_what_is_not_applied_is_named() -> None:
    silent = {
        **QWEN3,
        **dict.fromkeys(("bos_token_id", "num_beams", "num_beam_groups", "typical_p"), 1),
        **dict.fromkeys(("_from_model_config", "use_cache"), True),
        "transformers_version": "5.0",
        "no_repeat_ngram_size": 0,
        "max_length": 20,
        "length_penalty": 2.0,
        "bad_words_ids": None,
    }
    assert GenerationConfig.from_fields("here", silent).notes == ()
    loud = {"num_beams": 4, "typical_p": 0.9, "no_repeat_ngram_size": 3, "max_new_tokens": 9}
    (note,) = GenerationConfig.from_fields("here", {**silent, **loud, "new": [1]}).notes
    assert note == (
        "here: not applied: num_beams=4, typical_p=0.9, no_repeat_ngram_size=3, "
        "max_new_tokens=9, new=[1]"
    )
    (greedy,) = GenerationConfig.from_fields("here", {**QWEN3, "do_sample": False}).notes
    assert greedy == "here: do_sample=false is not applied: temperature=0 is greedy"


def test_a_choice_is_auto_or_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="generation_config: must be one of auto, none, got"):
        GenerationConfig.of_checkpoint(tmp_path, "vllm")  # type: ignore[arg-type]


@pytest.fixture
def checkpoint(qwen2: Path, tmp_path: Path) -> Path:
    """A checkpoint that states every value, and a field that is not applied."""
    folder = tmp_path / "stating"
    shutil.copytree(qwen2, folder)
    return stating(folder, {**STATED, "eos_token_id": 2, "num_beams": 2})


def tokens(result: GenerateResult) -> list[list[int]]:
    return [one.token_ids for one in result.completions]


def test_an_engine_draws_with_what_it_says_that_it_used(checkpoint: Path) -> None:
    asked = SamplingParams(n=2, seed=3, max_tokens=12, ignore_eos=True)
    with pytest.warns(UserWarning, match="generation_config.json: not applied: num_beams=2"):
        stated = Engine.from_pretrained(checkpoint)
    with stated, Engine.from_pretrained(checkpoint, generation_config="none") as own:
        for engine, used in ((stated, STATED), (own, OWN)):
            (result,) = engine.generate("hello", asked)
            assert numbers(result.params) == used
            (explicit,) = own.generate("hello", result.params)
            assert tokens(explicit) == tokens(result)
            (chat,) = engine.chat([{"role": "user", "content": "1"}], asked)
            assert numbers(chat.params) == used
        assert tokens(stated.generate("hello", asked)[0]) != tokens(own.generate("hello", asked)[0])


def test_candidates_stay_at_temperature_1_and_refinements_greedy(checkpoint: Path) -> None:
    short = SamplingParams(max_tokens=4)
    params = SelfRefineParams(k=2, seed=1, candidate=short, refine=SamplingParams(max_tokens=4))
    with Engine.from_pretrained(checkpoint) as engine:
        (result,) = engine.self_refine("1+1", SelfRefineParams(k=2, seed=1, candidate=short))
        candidate, refine = result.params.candidate, result.params.refine
        assert numbers(candidate) == {**OWN, "min_p": 0.1, "repetition_penalty": 1.3}
        assert numbers(refine) == {**OWN, "temperature": 0.0}
        told = SamplingParams(max_tokens=4, temperature=0.3, top_k=7)
        asked = SelfRefineParams(k=2, candidate=told, refine=told)
        used = engine.new_self_refine("1+1", asked).params
        assert (used.candidate.temperature, used.candidate.top_k) == (0.3, 7)
        # A refinement without a temperature samples as the checkpoint wants, but for the penalty.
        (result,) = engine.self_refine("1+1", params)
        assert numbers(result.params.refine) == {**STATED, "repetition_penalty": 1.0}
        with Engine.from_pretrained(checkpoint, generation_config="none") as other:
            (both,) = other.self_refine("1+1", params, refiner=engine)
        assert numbers(both.params.candidate) == OWN
        assert numbers(both.params.refine) == {**STATED, "repetition_penalty": 1.0}
        assert both.params.k == 2


def test_a_checkpoint_with_a_gsr_json_is_sampled_as_it_was_trained(checkpoint: Path) -> None:
    (checkpoint / "gsr.json").write_text("{}")
    for choice, used in ((None, OWN), ("auto", STATED)):
        with Engine.from_pretrained(checkpoint, generation_config=choice) as engine:
            assert numbers(engine.new_generate("a", SamplingParams()).params) == used
