"""Every family refines as transformers computes it, and windows are over positions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, Gemma3Config, Mistral3Config

from benchmarks.oracle import causal_logits, stream_logits
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig, RefinePosition
from gsr_engine.requests.self_refine import SelfRefineRequest
from tests.helpers.checkpoints import FAMILIES, SHAPE, load_oracle, make_checkpoint
from tests.helpers.recorder import Recorder
from tests.helpers.steps import run_checked

pytestmark = pytest.mark.slow

PROBLEM = "How many legs do three dogs and two birds have?"


def refined(engine: Engine, layout: str, tokens: int = 30) -> SelfRefineRequest:
    """A selfRef@3 that has run to its end."""
    params = SelfRefineParams(
        k=3,
        layout=layout,  # type: ignore[arg-type]
        seed=5,
        candidate=SamplingParams(max_tokens=tokens, ignore_eos=True),
        refine=SamplingParams(temperature=0.0, max_tokens=17, ignore_eos=True),
    )
    request = engine.new_self_refine(PROBLEM, params)
    run_checked(engine, [request])
    return request


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_equals_a_forward_over_the_whole_prompt(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = load_oracle(checkpoints[family])
    with Engine.from_pretrained(checkpoints[family]) as engine:
        recorder = Recorder(monkeypatch, range(5, 90))
        request = refined(engine, "linear")
        assert request.result is not None
        assert request.refinement is not None
        summaries = [request.result.candidates[i].content_ids for i in request.result.used]
        prompt = request.problem.linear(summaries)
        expected = causal_logits(oracle, prompt + request.refinement.segment.token_ids)
        got = recorder.of(request.refinement)
    torch.testing.assert_close(got, expected[len(prompt) - 1 : -1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("position", ["fork", "after"])
@pytest.mark.parametrize("family", FAMILIES)
def test_branched_equals_a_forward_under_the_block_mask(
    family: str,
    position: RefinePosition,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    oracle = load_oracle(checkpoints[family])
    folder = branched(checkpoints[family], tmp_path / "c", position)
    with Engine.from_pretrained(folder) as engine:
        recorder = Recorder(monkeypatch, range(5, 90))
        request = refined(engine, "branched")
        assert request.refinement is not None
        expected = stream_logits(oracle, request.refinement.segment)
        got = recorder.of(request.refinement)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def branched(source: Path, folder: Path, position: RefinePosition) -> Path:
    """The same checkpoint, as if it had been trained for the branched layout."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    GsrConfig(layouts=("linear", "branched"), refine_position=position).save(folder)
    return folder


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5],
    "long_factor": [1.0, 4.0, 8.0, 12.0, 16.0, 20.0],
}


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": 128,
        "max_position_embeddings": 512,
    }
    return make_checkpoint(tmp_path_factory.mktemp("longrope") / "c", "phi3", config=config)


@pytest.mark.parametrize(("longest", "prompt"), [(128, 60), (128, 120), (129, 129), (512, 300)])
def test_longrope_takes_the_factors_of_its_side(
    longest: int, prompt: int, longrope: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers chooses by the length of each forward, an engine by its longest context."""
    token_ids = torch.randint(5, 90, (prompt - 1,), generator=torch.manual_seed(0)).tolist()
    with Engine.from_pretrained(longrope, max_model_len=longest) as engine:
        recorder = Recorder(monkeypatch, range(5, 90))
        engine.generate([token_ids], SamplingParams(max_tokens=1))
        (got,) = recorder.logits.values()
    padding = [7] if longest > 128 else []  # its logits are not compared
    expected = causal_logits(load_oracle(longrope), token_ids + padding)[len(token_ids) - 1]
    torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=0)


def test_an_engine_says_which_factors_it_took(longrope: Path) -> None:
    with pytest.warns(UserWarning, match="long factors .* max_model_len=128 takes the short"):
        Engine.from_pretrained(longrope).close()
    with pytest.warns(UserWarning, match="short factors .* 128"):
        Engine.from_pretrained(longrope, max_model_len=128).close()


@pytest.mark.parametrize(("position", "seen"), [("fork", [True, True]), ("after", [False, True])])
def test_what_a_window_sees_of_candidates(
    position: RefinePosition, seen: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Placed at the fork, a refinement sees all candidates through a window.

    Placed after them, it sees the end of the longest alone. The model has one layer, so what a row
    sees in it is all that it depends on.
    """
    config = {"sliding_window": 300, "num_hidden_layers": 1}
    source = make_checkpoint(tmp_path / "source", "mistral", config=config)
    short, long = [40] * 30, [41] * 300
    sets = [short, long], [[50, *short[1:]], long], [short, [*long[:-1], 50]]
    logits = []
    with Engine.from_pretrained(branched(source, tmp_path / "c", position)) as engine:
        params = SelfRefineParams(
            k=2, layout="branched", refine=SamplingParams(temperature=0.0, max_tokens=1), seed=0
        )
        for candidates in sets:
            recorder = Recorder(monkeypatch, range(5, 90))
            engine.self_refine([PROBLEM], params, candidates=[candidates])
            ((row,),) = recorder.logits.values()
            logits.append(row)
    assert [not torch.equal(logits[0], other) for other in logits[1:]] == seen


TEXT = {**SHAPE, "num_hidden_layers": 4, "head_dim": 16, "vocab_size": 101, "pad_token_id": 0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.mark.parametrize("kind", ["gemma3", "mistral3"])
def test_of_a_model_that_sees_images_the_language_model_runs(
    kind: str, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "gemma3":
        text = {**TEXT, "model_type": "gemma3_text", "sliding_window": 8}
        vision = {**VISION, "model_type": "siglip_vision_model"}
        config: Any = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    else:
        text = {**TEXT, "model_type": "ministral3", **FAMILIES["ministral3"]}
        config = Mistral3Config(text_config=text, vision_config={**VISION, "model_type": "pixtral"})
    oracle = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    oracle.save_pretrained(tmp_path / "c")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(qwen2 / name, tmp_path / "c")
    with pytest.warns(UserWarning, match="its language model alone runs; images are not read"):
        engine = Engine.from_pretrained(tmp_path / "c")
    with engine:
        recorder = Recorder(monkeypatch, range(5, 90))
        token_ids = list(range(5, 60))
        engine.generate([token_ids], SamplingParams(max_tokens=1))
        ((row,),) = recorder.logits.values()
    torch.testing.assert_close(row, causal_logits(oracle, token_ids)[-1], atol=1e-4, rtol=0)
