"""A real model's log-probabilities behind a prompt that fills its context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gsr_engine import Engine, SamplingParams
from gsr_engine.checkpoint.digest import weights_digest
from tests.real.prompts import long_text
from tests.real.record_long_prompt import MOST, RECORD, STEPS

# It needs no oracle, and takes as long as the other tests of the model together.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real-long")]


def test_a_prompt_of_eight_thousand_tokens(smollm2: Path) -> None:
    """Transformers takes a minute for it, so its answer is kept: see `record_long_prompt`."""
    recorded = json.loads(RECORD.read_text())
    assert weights_digest(smollm2) == recorded["weights"]
    params = SamplingParams(max_tokens=STEPS, temperature=0.0, top_logprobs=MOST // 2)
    options: dict[str, Any] = {"dtype": "float32", "quantization": "none"}
    with Engine.from_pretrained(smollm2, **options, kv_cache_gib=0.4) as engine:
        (result,) = engine.generate(long_text(), params)
    assert len(result.prompt_token_ids) == recorded["prompt_tokens"] > 7900
    (completion,) = result.completions
    assert completion.token_ids == recorded["token_ids"]
    assert completion.top_logprobs is not None
    for ours, theirs in zip(completion.top_logprobs, recorded["most_likely"], strict=True):
        for token, logprob in ours:
            assert abs(theirs[str(token)] - logprob) < 1e-4
