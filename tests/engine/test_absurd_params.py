"""Absurd values of any option or parameter are refused by its name, in a short message."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch

from gsr_engine import (
    EngineConfig,
    InvalidRequest,
    OutOfMemory,
    RepetitionDetectionParams,
    SamplingParams,
    SelfRefineParams,
)
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.errors import shown
from gsr_engine.model.rope import rope_table
from gsr_engine.requests.inputs import one_each
from tests.helpers.hostile import VALUES, assert_short

ABSURD = [*VALUES, math.nan, math.inf, -math.inf, 10**5000, -(10**5000), object(), b"x", (None,)]
ALLOWED: dict[str, tuple[Any, ...]] = {
    # Where only the machine or the checkpoint can say what is too much, or any text will do.
    "kv_cache_gib": (None, 1, 2, 3, 0.5, 1e-320),
    "max_model_len": (None, 1, 2, 3),
    "cache_salt": tuple(value for value in VALUES if isinstance(value, str)),
}


def refusal(kind: type, name: str, value: object) -> InvalidRequest | None:
    """The error for a value; None if it is taken, which only a sensible one may be."""
    try:
        made = kind(**{name: value})
    except InvalidRequest as error:
        return error
    kept = getattr(made, name)
    assert not isinstance(kept, int | float) or abs(kept) < 2**63, (name, value)
    assert name not in ALLOWED or value in ALLOWED[name]
    return None


@pytest.mark.parametrize(
    "kind", [EngineConfig, RepetitionDetectionParams, SamplingParams, SelfRefineParams]
)
def test_every_field_refuses_what_is_absurd(kind: type) -> None:
    for field in fields(kind):
        refusals = [refusal(kind, field.name, value) for value in ABSURD]
        errors = [error for error in refusals if error is not None]
        assert len(errors) > len(ABSURD) / 2, field.name
        for error in errors:  # max_num_seqs and max_batch_tokens, and the lengths, limit each other
            assert error.field == field.name or field.name.startswith("max_")
            assert_short(error)


@pytest.mark.parametrize("items", [None, 5, object(), math.nan])
def test_what_is_no_list_of_prompts(items: Any) -> None:
    with pytest.raises(InvalidRequest, match="prompts: must be a list, got"):
        one_each("prompts", items, None, SamplingParams)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_num_seqs": 10**12},
            "max_num_seqs: must be an integer from 1 to 65536, got 10000000",
        ),
        ({"max_batch_tokens": 10**12}, "max_batch_tokens: must be an integer from 1 to 16777216"),
        ({"threads": 0}, "threads: must be an integer from 1 to 1024, got 0"),
        ({"threads": 2.0}, "threads: must be an integer from 1 to 1024, got 2.0"),
        ({"max_model_len": 10**400}, "max_model_len: must be an integer from 1 to 16777216"),
        ({"max_num_seqs": True}, "max_num_seqs: must be an integer from 1 to 65536, got True"),
        ({"kv_cache_gib": 10**5000}, "kv_cache_gib: must be a number from 0 to 1e\\+06"),
        ({"kv_cache_gib": True}, "kv_cache_gib: must be a number from 0 to 1e\\+06, got True"),
        ({"kv_cache_gib": math.nan}, "kv_cache_gib: must be a number .* got nan"),
        ({"gpu_memory_utilization": None}, "gpu_memory_utilization: must be a number from 0 to 1"),
    ],
)
def test_engine_options_have_limits(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        EngineConfig(**options)


def test_more_than_any_machine_has_is_out_of_memory() -> None:
    model = ModelConfig.from_folder(NANO)
    with pytest.raises(OutOfMemory, match=r"34359738368 KV pages take .* lower kv_cache_gib"):
        KVCache(model, 2**35, torch.float32, torch.device("cpu"))
    with pytest.raises(OutOfMemory, match=r"of 1099511627776 positions .* lower max_model_len"):
        rope_table(model.rope, model.head_dim, 2**40)


def test_values_are_shown_as_they_are_or_short() -> None:
    for value in (5, -1.5, "END", None, [1, 2], ("a", None), {"a": 1}, math.nan):
        assert shown(value) == repr(value)
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (10**5000, 10**400, "x" * 10**6, list(range(10**5)), {"x" * 999: 1}, nested):
        assert 5 < len(shown(value)) <= 80
