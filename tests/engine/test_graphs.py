"""Decode steps as graphs, captured at the start: which there are, and what runs without one.

On a CPU a captured call is called again, over the same padded shapes and at the same addresses.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine import Completion, Engine, EngineConfig, OutOfMemory, SamplingParams
from gsr_engine.execution.device import bytes_for_pages, paged_runner
from gsr_engine.execution.graphs import SHORT, Shape, bytes_for_graphs, ladder, shapes
from gsr_engine.execution.loading import load_parts
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine

STREAMS = 20
OPTIONS: dict[str, Any] = {
    "max_num_seqs": STREAMS,
    "max_batch_tokens": STREAMS,
    "kv_cache_gib": 0.01,
}
PROMPT = [5 + i * i % 80 for i in range(19)]
STEPS = 5


class Captures:
    """Stands in for a device's captures; those with these numbers fail."""

    def __init__(self, *failing: int, error: Exception | None = None) -> None:
        self._failing = failing
        self._error = error or RuntimeError("it synchronises")
        self.count = 0

    def __call__(self, call: Callable[[], object]) -> Callable[[], object]:
        self.count += 1
        if self.count - 1 in self._failing:
            raise self._error
        return call

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gsr_engine.execution.graphs.capture_for", lambda _: self)


def of_all_sizes(engine: Engine) -> list[list[Completion]]:
    """One request of n streams after the other, for every n."""
    params = [
        SamplingParams(n=n, max_tokens=STEPS, seed=3, ignore_eos=True)
        for n in range(1, STREAMS + 1)
    ]
    return [engine.generate([PROMPT], one)[0].completions for one in params]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the same shape with other weights."""
    return make_checkpoint(tmp_path_factory.mktemp("other"), "qwen2", seed=1)


@pytest.fixture(scope="module")
def expected(qwen2: Path) -> list[list[Completion]]:
    with Engine.from_pretrained(qwen2, **OPTIONS) as engine:
        assert engine.stats()["cuda_graphs"] is None
        return of_all_sizes(engine)


def assert_same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for mine, other in zip(found, expected, strict=True):
        assert [c.token_ids for c in mine] == [c.token_ids for c in other]
        for one, another in zip(mine, other, strict=True):
            assert one.logprobs == pytest.approx(another.logprobs, abs=1e-4)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_ladder(most: int, rows: int) -> None:
    """It ends where steps do, or at 512 rows; its next step is less than twice as large."""
    found = ladder(most)
    assert found == sorted(set(found))
    assert found[-1] == min(most, 512)
    if rows <= found[-1]:
        padded = next(one for one in found if one >= rows)
        assert padded < 2 * rows
        assert rows < 8 or padded < 1.5 * rows


def test_the_sizes_of_a_real_model(qwen2: Path) -> None:
    """They are few, and what they take of a GPU is bounded."""
    model = load_parts(qwen2, EngineConfig())[0].config
    every = shapes(model, 512, shares=True)
    group = model.num_heads // model.num_kv_heads
    assert {one.rows_per_item for one in every} == {16 // group, 32 // group, 64 // group}
    assert len(every) <= 3 * len(ladder(512))
    assert {one.rows_per_item for one in shapes(model, 512, shares=False)} == {1}
    for one in every:
        assert one.entries * model.num_heads * (model.head_dim + 1) * 4 <= 512 << 20
    step = 10**9
    taken = bytes_for_graphs(model, torch.bfloat16, 512, True, step)
    assert step < taken < step + (1 << 30)
    assert taken > bytes_for_graphs(model, torch.bfloat16, 8, True, step)


@pytest.mark.parametrize("lag", [0, 1])
def test_every_size_of_step_draws_the_same_tokens(
    lag: int, qwen2: Path, expected: list[list[Completion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    captures = Captures()
    captures.install(monkeypatch)
    with paged_engine(qwen2, lag, **OPTIONS) as engine:
        at_start = captures.count
        assert_same(of_all_sizes(engine), expected)
        counts = engine.stats()["cuda_graphs"]
    assert captures.count == at_start == counts["graphs"] > 2 * len(ladder(STREAMS))
    # The last step of a stream may be fed in vain.
    decodes = counts["replays"] - counts["prefill_replays"]
    assert STREAMS * (STEPS - 1) <= decodes <= counts["draws_replayed"]
    assert counts["prefill_replays"] > 0
    assert counts["eager_prefill"] == counts["eager_too_large"] == counts["failed"] == 0


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), torch.OutOfMemoryError("CUDA out of memory"), ValueError("no")]
)
@pytest.mark.parametrize("failing", [(0, 1, 3, 8, 20, 22), range(10), range(100)])
def test_what_cannot_be_captured_runs_in_a_larger_graph_or_eagerly(
    failing: tuple[int, ...],
    error: Exception,
    qwen2: Path,
    expected: list[list[Completion]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    captures = Captures(*failing, error=error)
    captures.install(monkeypatch)
    caplog.set_level(logging.INFO, "gsr_engine.execution.graphs")
    with paged_engine(qwen2, **OPTIONS) as engine:
        at_start = captures.count
        assert_same(of_all_sizes(engine), expected)
        counts = engine.stats()["cuda_graphs"]
    assert captures.count == at_start == counts["graphs"] + counts["failed"]
    assert counts["failed"] == sum(number < at_start for number in failing)
    assert bool(counts["eager_too_large"]) == (0 in failing)
    assert bool(counts["replays"]) == (len(failing) < at_start)
    told, *warned = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"captured {counts['graphs']} graphs in ")
    assert len(warned) == 1
    assert str(error) in warned[0]


def test_the_warning_names_what_made_a_capture_fail(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: object) -> Any:
        try:
            raise ValueError("it synchronises")
        finally:
            raise RuntimeError("failed due to a previous error during capture")

    monkeypatch.setattr("gsr_engine.execution.graphs.capture_for", lambda _: fails)
    with paged_engine(qwen2, **OPTIONS):
        assert caplog.records[-1].getMessage().endswith("ValueError: it synchronises")


def test_a_device_that_breaks_at_the_start_is_an_error(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Captures(3, error=torch.AcceleratorError("CUDA error: gone")).install(monkeypatch)
    with pytest.raises(torch.AcceleratorError, match="gone"):
        paged_engine(qwen2, **OPTIONS)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_step_beyond_every_bound_runs_eagerly(
    lag: int, qwen2: Path, expected: list[list[Completion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its rows, by its entries, or by the rows that share an item."""
    few = [Shape(1, 2, 3), Shape(4, 2, 9), Shape(12, 8, 30)]
    monkeypatch.setattr("gsr_engine.execution.device.shapes", lambda *_: few)
    with paged_engine(qwen2, lag, **OPTIONS) as engine:
        assert_same(of_all_sizes(engine), expected)
        counts = engine.stats()["cuda_graphs"]
    assert counts["replays"] > 0 < counts["eager_too_large"]


def test_a_page_table_that_is_too_long_runs_eagerly(
    qwen2: Path, expected: list[list[Completion]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsr_engine.execution.device.table_room", lambda _: 30)
    with paged_engine(qwen2, **OPTIONS) as engine:
        assert_same(of_all_sizes(engine), expected)
        counts = engine.stats()["cuda_graphs"]
    assert counts["replays"] > 0 < counts["eager_too_large"]


@pytest.mark.parametrize(
    ("lengths", "replayed"), [((128,), 1), ((129,), 0), ((60, 60), 1), ((90, 90), 0)]
)
def test_a_short_prompt_is_in_a_graph(lengths: tuple[int, ...], replayed: int, qwen2: Path) -> None:
    """A prompt of 128 tokens, or several that read as many, if a graph has so many rows."""
    prompts = [[7 + number] * length for number, length in enumerate(lengths)]
    options = {"max_num_seqs": 2, "max_batch_tokens": 256, "kv_cache_gib": 0.01}
    with paged_engine(qwen2, **options) as engine:
        engine.generate(prompts, SamplingParams(max_tokens=3, ignore_eos=True))
        counts = engine.stats()["cuda_graphs"]
    assert (counts["prefill_replays"], counts["eager_prefill"]) == (replayed, 1 - replayed)


@pytest.mark.parametrize("seed", range(6))
def test_prompts_that_come_and_go_draw_the_same_tokens(seed: int, qwen2: Path) -> None:
    """Short ones beside decoding streams, in pieces, behind cached ones, and with little memory."""
    choose = random.Random(seed)
    options = {"max_num_seqs": 8, "max_batch_tokens": 150, "kv_cache_gib": 0.0006}
    shared = [9] * choose.randrange(1, 60)
    work = [
        (
            choose.choice([[], shared]) + [11 + number] * choose.randrange(1, 90),
            SamplingParams(
                n=choose.randrange(1, 5), max_tokens=choose.randrange(1, 30), seed=number
            ),
            choose.randrange(4),
        )
        for number in range(14)
    ]

    def drawn(engine: Engine) -> list[list[Completion]]:
        requests = []
        for prompt, params, steps in work:
            requests.append(engine.new_generate(prompt, params))
            engine.submit(requests[-1])
            for _ in range(steps):
                engine.step()
        while engine.has_work:
            engine.step()
        engine.check()
        return [request.result.completions for request in requests]

    with Engine.from_pretrained(qwen2, **options) as plain:
        expected = drawn(plain)
    with paged_engine(qwen2, **options) as engine:
        assert_same(drawn(engine), expected)
        counts = engine.stats()["cuda_graphs"]
    assert counts["prefill_replays"] > 0


@pytest.fixture(scope="module")
def runner(qwen2: Path) -> Any:
    """A runner of which some graphs could not be captured."""
    config = EngineConfig(dtype="float32", **OPTIONS)
    decoder = load_parts(qwen2, config)[0]
    with pytest.MonkeyPatch.context() as patch:
        Captures(0, 2, 5, 9, 10).install(patch)
        return paged_runner(decoder, config, 1, use_graphs=True)


@given(
    rows=st.integers(1, STREAMS + 2), width=st.integers(1, 40), entries=st.integers(1, 70 * STREAMS)
)
def test_the_smallest_graph_that_holds_a_step_is_taken(
    rows: int, width: int, entries: int, runner: Any
) -> None:
    every = shapes(runner.decoder.config, STREAMS, shares=True)
    missing = [[*reversed(every)][number] for number in (0, 2, 5, 9, 10)]
    holding = [
        shape
        for shape in every
        if shape not in missing
        and rows <= shape.rows
        and width <= shape.rows_per_item
        and entries <= shape.entries
    ]
    assert runner.graphs.graph_for(rows, width, entries) == min(holding, default=None)


def test_only_plain_streams_draw_in_a_graph(qwen2: Path) -> None:
    plain = {"max_tokens": 6, "ignore_eos": True}
    with paged_engine(qwen2, **OPTIONS) as engine:
        for extra in ({"presence_penalty": 0.5}, {"min_tokens": 3}, {"top_logprobs": 1}):
            both = [SamplingParams(**plain), SamplingParams(**plain, **extra)]
            engine.generate([PROMPT, PROMPT], both)
        counts = engine.stats()["cuda_graphs"]
        assert counts["replays"] > 0 == counts["draws_replayed"]
        engine.generate([PROMPT, PROMPT], SamplingParams(**plain))
        assert engine.stats()["cuda_graphs"]["draws_replayed"] > 0


def test_graphs_of_a_decoder_that_is_replaced_are_gone(qwen2: Path, other: Path) -> None:
    """They would compute with its weights; a GPU overwrites them in place, and keeps its graphs."""
    params = SamplingParams(n=3, max_tokens=STEPS, seed=3, ignore_eos=True)
    with Engine.from_pretrained(other, **OPTIONS) as engine:
        expected = engine.generate([PROMPT], params)[0].completions
    with paged_engine(qwen2, **OPTIONS) as engine:
        engine.generate([PROMPT], params)
        assert engine.stats()["cuda_graphs"]["replays"] > 0
        engine.reload_weights(other)
        assert_same([engine.generate([PROMPT], params)[0].completions], [expected])
        assert engine.stats()["cuda_graphs"] is None


def test_pages_leave_room_for_the_graphs(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    decoder = load_parts(qwen2, EngineConfig())[0]
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: gib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * gib)
    monkeypatch.setattr("gsr_engine.execution.gpu.free_memory", lambda: (60 * gib, 80 * gib))

    def room(**options: Any) -> int:
        config = EngineConfig(max_num_seqs=256, max_batch_tokens=1024, **options)
        return bytes_for_pages(decoder, config)

    every = shapes(decoder.config, 256 + SHORT, shares=True)
    entry = decoder.config.num_heads * (decoder.config.head_dim + 1) * 4
    taken = room(cuda_graphs=False) - room(cuda_graphs=True)
    # Partial results, 384 rows' share of the largest step's memory, and 2 MiB for each graph.
    assert taken == every[-1].entries * entry + 2 * gib * 384 // 1024 + len(every) * (2 << 20)


@pytest.mark.parametrize(
    ("options", "field"), [({}, "gpu_memory_utilization"), ({"kv_cache_gib": 0.01}, "kv_cache_gib")]
)
def test_pages_that_leave_no_memory_at_all_are_a_typed_error(
    options: dict[str, Any], field: str, qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("gsr_engine.execution.device.measure_costs", measured)
    with pytest.raises(OutOfMemory, match=f"lower {field}"):
        Engine.from_pretrained(qwen2, **options)
