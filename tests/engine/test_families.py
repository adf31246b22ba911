"""Every family refines as transformers computes it, and windows are over positions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.oracle import causal_logits, stream_logits
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig, RefinePosition
from gsr_engine.requests.self_refine import SelfRefineRequest
from tests.helpers.checkpoints import FAMILIES, load_oracle
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
