"""What is measured before the first request, in whatever room there is."""

from __future__ import annotations

from typing import Any

import pytest

from gsr_engine import Engine, SamplingParams
from gsr_engine.demo.report import NANO
from gsr_engine.execution.runner import Runner
from gsr_engine.kv.segments import PAGE_SIZE
from gsr_engine.step.plan import StepPlan
from tests.helpers.paged import paged_engine

PARAMS = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def page_gib() -> float:
    with Engine.from_pretrained(NANO, dtype="float32") as engine:
        return engine.limits.page_bytes / 2**30


@pytest.mark.parametrize("pages", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("length", [16, 18, 40, 2048])
def test_no_step_leaves_its_room(
    pages: int, length: int, page_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the pages nor the positions of the model, which nobody checks on the device."""
    launch, steps = Runner.launch, []

    def checked(self: Runner, plan: StepPlan) -> Any:
        for chunk in plan.chunks:
            segments = [chunk.segment, *(span.segment for span in chunk.segment.context)]
            assert len({page for s in segments for page in s.pages}) <= pages
            assert max(page for s in segments for page in s.pages) < pages
            assert len(chunk.segment.pages) * PAGE_SIZE >= chunk.stop
            assert chunk.segment.position + chunk.stop <= length
        steps.append(plan)
        return launch(self, plan)

    monkeypatch.setattr(Runner, "launch", checked)
    options: dict[str, Any] = {"kv_cache_gib": (pages + 0.5) * page_gib, "max_model_len": length}
    with Engine.from_pretrained(NANO, dtype="float32", speculative_config={}, **options) as engine:
        assert bool(steps) == (pages > 1 and length > 16)
        if pages > 1:
            (result,) = engine.generate([[7, 8, 7, 8]], PARAMS)
            assert len(result.completions[0].token_ids) == 8


@pytest.mark.parametrize("options", [{"max_batch_tokens": 1}, {"max_batch_tokens": 3}, {}])
def test_few_rows(options: dict[str, int]) -> None:
    options = {"max_num_seqs": 1, **options}
    with Engine.from_pretrained(NANO, dtype="float32", speculative_config={}, **options) as engine:
        (result,) = engine.generate([[7, 8, 7, 8]], PARAMS)
    assert len(result.completions[0].token_ids) == 8


def test_what_is_measured_is_not_counted() -> None:
    """The engine has computed nothing yet, whatever was timed."""
    for make in (Engine.from_pretrained, paged_engine):
        counts = []
        for config in (None, {}):
            with make(NANO, dtype="float32", speculative_config=config) as engine:
                counts.append(engine.stats())
            if counts[-1]["cuda_graphs"]:
                counts[-1]["cuda_graphs"]["seconds"] = 0  # of the captures
        plain, measured = ({**one, "pages_total": 0} for one in counts)
        assert measured == plain
