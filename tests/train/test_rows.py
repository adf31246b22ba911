"""The trainer sees what the engine computes: the central equality."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.text.problem_prompts import ProblemPrompts
from tests.engine.test_self_refine import with_gsr
from tests.helpers.recorder import Recorder
from tests.helpers.tiny import tiny_config
from train.rows import Row, branched_row, direct_row, linear_row
from train.trainer.batches import collate
from train.trainer.loss import target_losses
from train.trainer.model import Trainee, build_model, load_weights, read_model_config
from train.trainer.world import joined

QUESTION = "what is 6 times 7?"


def target_logits(
    trainee: Trainee, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """The logits that the loss of some packed rows is taken of."""
    seen: list[torch.Tensor] = []

    def spy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.nn.functional.linear(hidden, weight))
        return target_losses(hidden, weight, targets)

    monkeypatch.setattr("train.trainer.model.target_losses", spy)
    with torch.no_grad():
        trainee(collate(rows, torch.device("cpu")))
    return seen[0]


@pytest.mark.parametrize("position", ["fork", "after"])
@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_a_training_forward_equals_the_engines_decode(
    layout: str, position: str, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same candidates the trainer's row gives the logits that the engine sampled from."""
    folder = with_gsr(qwen2, tmp_path / "c", refine_position=position)
    params = SelfRefineParams(
        k=4,
        layout=layout,  # type: ignore[arg-type]
        seed=2,
        candidate=SamplingParams(max_tokens=20),
        refine=SamplingParams(max_tokens=15, ignore_eos=True),
    )
    with Engine.from_pretrained(folder) as engine, joined() as world:
        config = tiny_config(folder, tmp_path, tmp_path)
        trainee = build_model(read_model_config(folder), config, world.mesh(0))
        load_weights(trainee, folder)
        recorder = Recorder(monkeypatch, range(2, 60))
        request = engine.new_self_refine(QUESTION, params)
        engine.submit(request)
        while engine.has_work:
            engine.step()
        assert request.result
        assert request.refinement
        prompts = engine.prompts
        summaries = [
            prompts.summary(c.segment.token_ids[: c.content_length], 1000).token_ids
            for i in request.result.used
            for c in [request.candidates[i]]
        ]
        build = linear_row if layout == "linear" else branched_row
        target = request.refinement.segment.token_ids
        problem = ProblemPrompts(prompts, QUESTION)
        row = build(problem, summaries, target)
        assert row.token_ids[row.target_start :] == target
        assert row.positions[row.target_start] == request.refinement.segment.position
        candidate = request.candidates[0]
        direct = direct_row(problem, candidate.segment.token_ids)
        trained = target_logits(trainee, [direct, row], monkeypatch)
        sampled = torch.cat([recorder.of(candidate), recorder.of(request.refinement)])
        torch.testing.assert_close(trained, sampled, atol=1e-4, rtol=0)
