"""What a loaded model says that it takes, against first principles."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gsr_engine import Engine, EngineConfig
from gsr_engine.demo.report import NANO
from gsr_engine.execution.footprint import Footprint
from gsr_engine.execution.loading import load_parts
from gsr_engine.model import linear

# nano: vocabulary 441, width 128, 3 layers with 4 heads and 2 heads of KV of 32, 352 inside.
HEAD = 441 * 128
LAYER = 128 * (4 + 2 * 2) * 32 + 4 * 32 * 128 + 3 * 128 * 352 + 2 * 128
WEIGHTS = HEAD + 3 * LAYER + 128
PACKED_HEAD = 448 * 128  # the tied head is another copy of the embedding, in blocks of 16 words
# In 8 bits: integers, and fp32 scales of 64 inputs each, in blocks of 16 outputs.
INT8_LAYER = (256 + 128 + 704) * (128 + 2 * 4) + 128 * (352 + 6 * 4) + 4 * 2 * 128
INT8_WEIGHTS = 4 * HEAD + 448 * (128 + 2 * 4) + 3 * INT8_LAYER + 4 * 128
TOKEN = 3 * 2 * 2 * 32  # keys and values of every layer


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_the_line_is_the_models_arithmetic(
    dtype: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    gib = 1000 * 16 * TOKEN * size / 2**30
    with (
        caplog.at_level(logging.INFO, logger="gsr_engine"),
        Engine.from_pretrained(NANO, dtype=dtype, kv_cache_gib=gib) as engine,
    ):
        found = engine.footprint
    assert found.weight_bytes == size * (WEIGHTS + PACKED_HEAD)
    assert found.kv_bytes_per_token == size * TOKEN
    assert found.pool_tokens == 1000 * 16
    (line,) = (record.getMessage() for record in caplog.records)
    gib = size * (WEIGHTS + PACKED_HEAD) / 2**30
    assert line.startswith(f"{gib:.3g} GiB of weights ({dtype}), ")
    assert f"{size * TOKEN / 1024:g} KiB of KV per token, 16,000 tokens in the pool" in line


def test_weights_in_8_bits_and_their_scales() -> None:
    with Engine.from_pretrained(NANO, quantization="int8", kv_cache_gib=0.01) as engine:
        assert engine.footprint.weight_bytes == INT8_WEIGHTS
        assert engine.footprint.kv_bytes_per_token == 4 * TOKEN


def test_a_tied_head_that_is_not_packed_is_the_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "has_cpu_kernels", lambda _: False)
    with Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=0.01) as engine:
        assert engine.footprint.weight_bytes == 4 * WEIGHTS


def test_requests_at_once_are_those_whose_pages_the_pool_holds() -> None:
    config = EngineConfig(kv_cache_gib=0.01)
    decoder, *parts = load_parts(NANO, config)
    with Engine(decoder, *parts, config) as engine:
        limits = engine.limits
    assert engine.footprint.refines_at_once is None  # nano's context is 2,048
    needed = (256 + 4 * 1024 + 512) // 16
    for pages, count in ((needed - 1, 0), (needed, 1), (7 * needed - 1, 6), (7 * needed, 7)):
        roomy = replace(limits, max_model_len=4864, num_pages=pages)
        found = Footprint.of(decoder, roomy)
        assert found.refines_at_once == count
        assert str(found).endswith(f": {count} selfRef@4 of 256/1,024/512 tokens fit at once")
    assert Footprint.of(decoder, replace(limits, max_model_len=4863)).refines_at_once is None
