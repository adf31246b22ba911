"""The trainer sees what the engine computes: the central equality, and losses that add up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from train.data import Mixture, Record, Rows, load_records
from transformers import AutoModelForCausalLM

from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.prompts import Prompts
from gsr_engine.tokenizer import Tokenizer
from tests.engine.recorder import Recorder
from tests.engine.test_self_refine import with_gsr
from train.batches import collate, micro_batches
from train.checkpoint import export_model
from train.model import load_model, target_logits
from train.rows import Row, branched_row, direct_row, linear_row
from train.sft import SftConfig, Trainer, step_losses


@pytest.mark.parametrize("position", ["fork", "after"])
@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_a_training_forward_equals_the_engines_decode(
    layout: str, position: str, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same candidates the trainer's row gives the logits that the engine sampled from."""
    folder = with_gsr(qwen2, tmp_path / "c", refine_position=position)
    model = load_model(folder).eval()
    params = SelfRefineParams(
        k=4,
        layout=layout,  # type: ignore[arg-type]
        seed=2,
        candidate=SamplingParams(max_tokens=20),
        refine=SamplingParams(max_tokens=15, ignore_eos=True),
    )
    with Engine.from_pretrained(folder) as engine:
        recorder = Recorder(monkeypatch, range(2, 60))
        request = engine.new_self_refine("what is 6 times 7?", params)
        engine.submit(request)
        while engine.has_work:
            engine.step()
        assert request.result
        assert request.refinement
        prompts = engine.prompts
        summaries = [
            prompts.summary(c.segment.token_ids[: c.span_length], 1000).token_ids
            for i in request.result.used
            for c in [request.candidates[i]]
        ]
        build = linear_row if layout == "linear" else branched_row
        target = request.refinement.segment.token_ids
        row = build(prompts, request._problem, summaries, target)
        assert row.token_ids[row.target_start :] == target
        assert row.positions[row.target_start] == request.refinement.segment.position
        with torch.no_grad():
            trained = target_logits(model, collate([row]))
            torch.testing.assert_close(trained, recorder.of(request.refinement), atol=1e-4, rtol=0)
            candidate = request.candidates[0]
            direct = direct_row(prompts, request._problem, candidate.segment.token_ids)
            solved = target_logits(model, collate([direct]))
        torch.testing.assert_close(solved, recorder.of(candidate), atol=1e-4, rtol=0)


@pytest.fixture
def rows(qwen2: Path) -> list[Row]:
    tokenizer, prompts = tools(qwen2)
    problem = prompts.problem("6 times 7")
    target = [*tokenizer.encode_text("it is 42"), tokenizer.end_id]
    short = [tokenizer.encode_text(text) for text in ("40", "it is 44, I think")]
    return [
        direct_row(prompts, problem, target),
        direct_row(prompts, prompts.problem("1+1"), target[-3:]),
        linear_row(prompts, problem, short, target),
        branched_row(prompts, problem, short, target[-5:]),
        branched_row(prompts, problem, short[:1], target),
    ]


def tools(folder: Path) -> tuple[Tokenizer, Prompts]:
    with Engine.from_pretrained(folder) as engine:
        return engine.tokenizer, engine.prompts


def test_only_the_target_is_learnt(rows: list[Row], qwen2: Path) -> None:
    tokenizer, _ = tools(qwen2)
    batch = collate(rows)
    assert tokenizer.decode(batch.targets.tolist()) == "it is 4242it is 42s 42it is 42"
    predicted = [
        int(batch.token_ids[index, place + 1])
        for index, place in batch.predicting.nonzero().tolist()
    ]
    assert predicted == batch.targets.tolist()
    assert len(predicted) == sum(row.num_targets for row in rows)


def test_loss_equals_plain_transformers(rows: list[Row], qwen2: Path) -> None:
    """Sequential rows against the model's own causal forward; each objective its own mean."""
    plain = AutoModelForCausalLM.from_pretrained(qwen2, dtype=torch.float32)
    config = SftConfig(steps=1, lr=1e-3, dtype="float32")
    sequential = rows[:3]
    got = step_losses(load_model(qwen2), sequential, config, backward=False)
    sums, counts = torch.zeros(2), torch.zeros(2)
    for row in sequential:
        ids = torch.tensor([row.token_ids])
        logits = plain(ids).logits[0, row.target_start - 1 : -1]
        objective = int(row.objective == "refine")
        sums[objective] += F.cross_entropy(logits, ids[0, row.target_start :], reduction="sum")
        counts[objective] += row.num_targets
    torch.testing.assert_close(got, sums / counts, atol=1e-5, rtol=0)


def test_micro_batches_do_not_change_loss_or_gradients(rows: list[Row], qwen2: Path) -> None:
    config = SftConfig(steps=1, lr=1e-3, dtype="float32")
    outcomes = []
    for size in (1, 300, 100_000):
        model = load_model(qwen2)
        losses = step_losses(model, rows, replace(config, micro_tokens=size), backward=True)
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        outcomes.append((losses, gradients))
        assert sum(b.token_ids.shape[0] for b in micro_batches(rows, size)) == len(rows)
    for losses, gradients in outcomes[1:]:
        torch.testing.assert_close(losses, outcomes[0][0], atol=1e-5, rtol=0)
        torch.testing.assert_close(gradients, outcomes[0][1], atol=1e-5, rtol=0)


def make_trainer(folder: Path, out: Path, steps: int, save_every: int = 100) -> Trainer:
    tokenizer, prompts = tools(folder)
    records = [
        Record(
            prompts.problem(f"{i} + {i}"),
            [*tokenizer.encode_text(str(2 * i)), tokenizer.end_id],
            [tokenizer.encode_text(str(2 * i + j)) for j in range(3)],
        )
        for i in range(7)
    ]
    mixture = Mixture(direct=2, refine=3, candidate_weights=(0.5, 0.5))
    config = SftConfig(
        steps=steps, lr=1e-3, warmup=2, dtype="float32", log_every=2, save_every=save_every
    )
    return Trainer(load_model(folder), Rows(prompts, records, mixture, seed=1), config, out)


def test_an_interrupted_run_ends_with_the_same_weights(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    whole = make_trainer(qwen2, tmp_path / "whole", 8)
    whole.run(say=lambda _: None)
    broken = make_trainer(qwen2, tmp_path / "broken", 8)
    real, seen = broken._rows.step, []

    def interrupted(step: int) -> list[Row]:
        seen.append(step)
        if step == 5:
            raise KeyboardInterrupt
        return real(step)

    monkeypatch.setattr(broken._rows, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.run(say=lambda _: None)
    resumed = make_trainer(qwen2, tmp_path / "broken", 8)
    said: list[str] = []
    resumed.run(say=said.append)
    assert "goes on from step 5" in said[0]
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_other_settings_do_not_resume(qwen2: Path, tmp_path: Path) -> None:
    from gsr_engine import CheckpointError

    make_trainer(qwen2, tmp_path / "run", 2).run(say=lambda _: None)
    with pytest.raises(CheckpointError, match="other settings"):
        make_trainer(qwen2, tmp_path / "run", 4).run(say=lambda _: None)


def test_training_lowers_both_losses_and_exports(qwen2: Path, tmp_path: Path) -> None:
    trainer = make_trainer(qwen2, tmp_path / "run", 60)
    trainer.run(say=lambda _: None)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss_direct"] < 0.5 * log[0]["loss_direct"]
    assert log[-1]["loss_refine"] < 0.5 * log[0]["loss_refine"]
    export_model(trainer.model, tmp_path / "out", qwen2)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, trainer.model(ids).logits)
    with Engine.from_pretrained(tmp_path / "out") as engine:
        assert engine.generate([[5, 6, 7]], SamplingParams(max_tokens=3))


def test_the_command_trains_evaluates_and_says_what_for(qwen2: Path, tmp_path: Path) -> None:
    from gsr_engine import InvalidRequest
    from gsr_engine.gsr_config import GsrConfig
    from train.sft import main

    data = tmp_path / "data.jsonl"
    rows = [
        {
            "problem": f"{i}+{i}",
            "solution": str(2 * i),
            "candidates": [str(2 * i + j) for j in range(3)],
        }
        for i in range(6)
    ]
    data.write_text("\n".join(json.dumps(row) for row in rows))
    settings = {"direct": 1, "refine": 2, "k": "2-3", "layouts": "branched", "held_out": 2}
    main(qwen2, data, tmp_path / "out", steps=3, **settings)  # type: ignore[arg-type]
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert set(log[-1]) == {"step", "held_out_direct", "held_out_refine"}
    gsr = GsrConfig.from_folder(tmp_path / "out")
    assert (gsr.layouts, gsr.num_candidates) == (("branched",), (2, 3))
    with Engine.from_pretrained(tmp_path / "out") as engine:
        assert engine.self_refine(["1+1"], SelfRefineParams(k=2, layout="branched", seed=0))
    for bad in ({"k": "3-2"}, {"layouts": "spiral"}, {"direct": 0, "refine": 0}, {"lr": -1.0}):
        with pytest.raises(InvalidRequest, match=next(iter(bad))):
            main(qwen2, data, tmp_path / "bad", **bad)  # type: ignore[arg-type]


def test_rows_are_a_pure_function_of_seed_and_step(qwen2: Path) -> None:
    tokenizer, prompts = tools(qwen2)
    records = [
        Record(prompts.problem(str(i)), [tokenizer.end_id], [[50 + i], [60 + i]]) for i in range(5)
    ]
    mixture = Mixture(direct=2, refine=2, candidate_weights=(1, 1))
    one, two = (Rows(prompts, records, mixture, seed=3) for _ in range(2))
    forward = [one.step(step) for step in range(10)]
    assert [two.step(step) for step in reversed(range(10))] == forward[::-1]
    # Every record is seen once per epoch: 5 steps of 2 rows are 2 epochs of 5 records.
    problems = [tuple(r.token_ids[: r.target_start]) for rows in forward[:5] for r in rows[:2]]
    assert all(problems.count(problem) == 2 for problem in problems)
    refined = [row for rows in forward for row in rows[2:]]
    assert sum(any(row.branches) for row in refined) == len(refined) // 2


def test_load_records(qwen2: Path, tmp_path: Path) -> None:
    from gsr_engine import InvalidRequest

    tokenizer, prompts = tools(qwen2)
    good = {
        "problem": "1+1",
        "solution": "<think>hm</think>2",
        "candidates": ["<think>a</think>b", [50, 51], "<think>never ends"],
    }
    file = tmp_path / "data.jsonl"
    file.write_text(json.dumps(good) + "\n")
    (record,) = load_records(file, tokenizer, prompts)
    assert record.problem == prompts.problem("1+1")
    assert record.solution == [*tokenizer.encode_text("<think>hm</think>2"), tokenizer.end_id]
    assert record.summaries == [tokenizer.encode_text("b"), [50, 51]]
    file.write_text(json.dumps(good) + '\n{"problem": 1}\n')
    with pytest.raises(InvalidRequest, match="line 2"):
        load_records(file, tokenizer, prompts)
