"""The measure of what company changes: nothing on a CPU, and what it says where something does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu_check.company import agreement_in_company
from gsr_engine import Engine, SamplingParams
from gsr_engine.demo.report import NANO

PARAMS = SamplingParams(n=2, max_tokens=8, seed=3, ignore_eos=True)
PROMPTS = [[9] * length for length in (3, 20, 40)]


def test_on_a_cpu_company_changes_no_token() -> None:
    with Engine.from_pretrained(NANO, device="cpu", dtype="float32", prefix_cache=False) as engine:
        row = agreement_in_company(engine, PROMPTS, PARAMS)
    assert row == {"streams": 6, "same_streams": 1.0, "same_tokens": 1.0}


def test_what_differs_is_counted_from_its_first_token() -> None:
    class Swayed:
        def new_generate(self, prompt: list[int], _: SamplingParams, index: int) -> int:
            return index

        def run(self, requests: list[int]) -> list[Any]:
            changed = [1, 2, 9, 4] if len(requests) > 1 else [1, 2, 3, 4]
            tokens = [[1, 2, 3, 4] if index else changed for index in requests]
            return [SimpleNamespace(completions=[SimpleNamespace(token_ids=one)]) for one in tokens]

    engine: Any = Swayed()
    row = agreement_in_company(engine, PROMPTS, PARAMS)
    assert row["same_streams"] == pytest.approx(2 / 3)
    assert row["same_tokens"] == pytest.approx(10 / 12)
