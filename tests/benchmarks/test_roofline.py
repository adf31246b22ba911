"""Counts of the roofline against plain arithmetic, and its seconds against its counts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

pytest.importorskip("triton")

import typer

from benchmarks.kernels.launches import recorded
from benchmarks.kernels.roofline import simulation
from benchmarks.kernels.roofline.__main__ import main, pages_gib
from benchmarks.kernels.roofline.chips import CHIPS, COPY, DECODE, LAUNCH, PRODUCT, PROGRAM
from benchmarks.kernels.roofline.operations import Operation
from benchmarks.kernels.roofline.simulation import Sizes, Step, simulate
from benchmarks.kernels.roofline.times import by_phase, seconds_of
from benchmarks.random_weights import engine_over, model_config, random_problems, shape_config
from csrc_triton import pages
from gsr_engine import EngineConfig, SamplingParams
from gsr_engine.execution.device import paged_runner
from gsr_engine.model import weights
from gsr_engine.model.linear import Linear
from gsr_engine.outputs import Phase
from gsr_engine.params import Layout
from gsr_engine.text.problem_prompts import ProblemPrompts

SIZES = Sizes(problems=2, k=3, problem=120, candidate=20, refine=8)
LAYERS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 16
TOKEN = 2 * KV_HEADS * HEAD_DIM * 2
"""Bytes of a token's keys and values in one layer."""


def simulated(layout: Layout = "linear", *, shares: bool = True, every: int = 128) -> list[Step]:
    with patch.object(simulation, "EVERY", every):
        return simulate(model_config("tiny"), SIZES, layout, 0.05, shares=shares)


@pytest.fixture(scope="module")
def linear() -> list[Step]:
    return simulated()


def first(steps: list[Step], phase: str) -> Step:
    return next(step for step in steps if step.phase == phase)


def kind(step: Step, name: str) -> list[tuple[Operation, int]]:
    return [(one, count) for one, count in step.operations.items() if one.kind == name]


def prompts(steps: list[Step]) -> int:
    """Tokens of all problems' prompts."""
    return sum(step.tokens for step in steps if step.phase == "candidate_prefill")


def test_a_decode_step_reads_every_weight_once(linear: list[Step]) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape_config("tiny"))
    matrices = sum(2 * one.numel() for one in model.parameters() if one.dim() == 2)
    step = first(linear, "candidate_decode")
    assert sum(n * one.least_bytes for one, n in kind(step, "product")) == matrices
    assert sum(n * one.least_flops for one, n in kind(step, "product")) == matrices * 6


@pytest.mark.parametrize("shares", [True, False])
def test_a_decode_step_reads_common_tokens_once_if_it_shares(shares: bool) -> None:
    steps = simulated(shares=shares)
    step = first(steps, "candidate_decode")
    ((attention, layers),) = kind(step, "decode")
    streams = SIZES.problems * SIZES.k
    common, own = prompts(steps), streams  # each stream feeds its first token
    assert layers == LAYERS
    assert attention.least_bytes == (common + own) * TOKEN
    entries = attention.partials // (HEADS * (HEAD_DIM + 1) * 4)
    queries = entries * HEADS * HEAD_DIM * 2
    read = common + own if shares else common * SIZES.k + own
    assert attention.moved - attention.partials - queries == read * TOKEN
    assert attention.flops == 4 * HEADS * HEAD_DIM * (common * SIZES.k + own)
    assert entries >= 2 * streams  # at least one partial of the prompt and one of its own


def test_a_launch_touches_rows_of_tables_not_tables(linear: list[Step]) -> None:
    """Rotation reads q, k, v, a position, a slot and a row of angles, and stores q, k and v."""
    step = first(linear, "candidate_prefill")
    ((rope, layers),) = [pair for pair in step.operations.items() if "rope" in pair[0].name]
    head = 2 * HEAD_DIM
    read = (HEADS + 2 * KV_HEADS) * head + 4 * HEAD_DIM + 8 + 8
    assert layers == LAYERS
    assert rope.moved == step.tokens * (read + HEADS * head + 2 * KV_HEADS * head)


def test_prefill_multiplies_what_its_rows_see(linear: list[Step]) -> None:
    step = first(linear, "candidate_prefill")
    ((attention, layers),) = kind(step, "prefill")
    length = prompts(linear) // SIZES.problems
    pairs = SIZES.problems * length * (length + 1) // 2
    assert layers == LAYERS
    assert attention.least_flops == 4 * HEADS * HEAD_DIM * pairs
    assert attention.flops > attention.least_flops
    assert attention.least_bytes == prompts(linear) * TOKEN


def test_a_refinement_reads_the_problem_or_all_candidates_in_place(linear: list[Step]) -> None:
    decoder = weights.dummy_decoder(model_config("tiny"), torch.float32)
    with engine_over(decoder, kv_cache_gib=0.05) as engine:
        problem = ProblemPrompts(engine.prompts, random_problems(1, SIZES.problem)[0])
    whole = len(problem.linear([[1] * SIZES.candidate] * SIZES.k))
    ((attention, _),) = kind(first(linear, "refine_prefill"), "prefill")
    assert attention.least_bytes == SIZES.problems * whole * TOKEN
    step = first(simulated("branched"), "refine_prefill")
    ((attention, _),) = kind(step, "decode")  # short, so its tokens are rows of decode
    # The last token of a candidate that was cut is computed with the refinement.
    written = len(problem.direct) + SIZES.k * (SIZES.candidate - 1)
    assert attention.least_bytes == (SIZES.problems * written + step.tokens) * TOKEN


def test_launches_are_those_of_a_real_forward(linear: list[Step]) -> None:
    """The same model with weights, computed by torch, its kernels recorded."""
    with patch.object(weights, "linear_maker", lambda *_: Linear):
        decoder = weights.dummy_decoder(model_config("tiny"), torch.bfloat16)
    with (
        recorded() as launches,
        patch.object(pages, "vector_major", pages.token_major),
        patch.object(torch, "empty", torch.zeros),  # what a kernel should have drawn is a token
    ):
        runner = paged_runner(decoder, EngineConfig(kv_cache_gib=0.05), lag=1, use_graphs=True)
        with engine_over(decoder, runner, kv_cache_gib=0.05) as engine:
            for problem in random_problems(2, SIZES.problem):
                params = SamplingParams(n=3, max_tokens=50, ignore_eos=True)
                engine.submit(engine.new_generate(problem, params))
            for _ in range(3):
                launches.clear()
                engine.step()
    names = Counter(one.name for one in launches)
    counted = Counter[str]()
    for one, count in first(linear, "candidate_decode").operations.items():
        counted[one.name] += count
    assert names == Counter({name: n for name, n in counted.items() if "." in name})
    assert counted["decode._work_list_kernel"] == LAYERS


def test_steps_stand_for_all_that_the_work_takes(linear: list[Step]) -> None:
    drawn = sum(step.weight * step.drawn for step in linear)
    assert drawn == SIZES.problems * (SIZES.k * SIZES.candidate + SIZES.refine)
    every_step = by_phase(simulated(every=1), CHIPS["h100"])
    some = by_phase(simulated(every=4), CHIPS["h100"])
    for name, phase in every_step.items():
        assert some[name].steps == phase.steps
        assert some[name].gigabytes == pytest.approx(phase.gigabytes, rel=0.002)
        assert some[name].seconds.reached == pytest.approx(phase.seconds.reached, rel=0.002)


def test_seconds_of_a_step_add_up() -> None:
    chip = CHIPS["h200"]
    weight, rows, padded = 2_000_000_000, 3, 4
    product = Operation(
        name="linear",
        kind="product",
        moved=weight,
        flops=weight * padded * 500,
        least_bytes=weight,
        least_flops=weight * rows * 500,
        in_graph=True,
    )
    gate = Operation(name="gate", kind="other", moved=1_000_000, in_graph=True)
    step = Step("candidate_decode", 1.0, rows, rows, False, Counter({product: 2, gate: 1}))
    parts = seconds_of(step, chip)
    floor = 2 * weight * rows * 500 / chip.flops  # above that of its bytes
    assert parts.floor == pytest.approx(floor)
    assert parts.shares == pytest.approx(floor / PRODUCT.value - floor)
    assert parts.padding == pytest.approx(floor / PRODUCT.value / rows)
    assert parts.elementwise == pytest.approx(1_000_000 / chip.bandwidth / COPY.value)
    assert parts.launches == pytest.approx(3 * LAUNCH.value)
    assert parts.host == parts.partials == 0.0
    whole = floor / PRODUCT.value * padded / rows + parts.elementwise + parts.launches
    assert parts.reached == pytest.approx(whole)


def test_few_programs_cannot_ask_for_all_of_the_bandwidth() -> None:
    chip = CHIPS["h200"]

    def seconds(busy: int) -> float:
        one = Operation(name="list", kind="decode", moved=10**9, busy=busy, in_graph=True)
        return seconds_of(Step("d", 1.0, 1, 1, False, Counter({one: 1})), chip).shares

    assert seconds(4) == pytest.approx(1e9 / (4 * PROGRAM.value))
    assert seconds(400) == seconds(500) == pytest.approx(1e9 / chip.bandwidth / DECODE.value)


def test_few_launches_outside_of_graphs_wait_for_the_host() -> None:
    gate = Operation(name="gate", kind="other", moved=16)
    step = Step("candidate_decode", 1.0, 1, 1, False, Counter({gate: 100}))
    eager = seconds_of(step, CHIPS["h100"])
    assert eager.host > 0
    assert eager.reached == pytest.approx(0.5e-3 + 5e-6 + 100 * 15e-6)


def test_the_command_keeps_its_tables(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    sizes = {"problems": 1, "k": 2, "problem": 20, "candidate": 4, "refine": 3}
    work = [part for name, size in sizes.items() for part in (f"--{name}", str(size))]
    case = ["--shape", "tiny", "--chip", "h200,h100", "--layout", "linear"]
    done = CliRunner().invoke(app, [*case, *work, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "roofline.json").read_text(encoding="utf-8"))
    (title, phases), (other, _) = kept["results"].items()
    assert title.startswith("tiny, H200")
    assert other.startswith("tiny, H100")
    assert set(phases) == set(get_args(Phase))
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert title in report
    assert "No GPU has run this" in report
    assert CliRunner().invoke(app, ["--chip", "h300"]).exit_code == 2


def test_a_model_without_room_for_pages_is_refused() -> None:
    config, chip = model_config("32b"), CHIPS["h100"]
    assert 5 < pages_gib(config, chip) < 10
    small = replace(chip, memory_gib=60)
    with pytest.raises(typer.BadParameter, match="no room"):
        pages_gib(config, small)
