"""The memory that a GPU keeps for prefill's partial results is what the launches take, at most."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import csrc_triton
from benchmarks.kernels.launches import recorded
from csrc_triton import PagedSpan, PrefillPlan
from gsr_engine.attention import partials
from gsr_engine.checkpoint.model_config import ModelConfig
from tests.helpers.checkpoints import make_checkpoint

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs the kernels"
)
HEADS = {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 16}
CPU = torch.device("cpu")


@pytest.mark.parametrize(("chunks", "rows"), [(1, 5), (60, 30), (300, 5)])
def test_prefill_never_takes_more_than_is_kept(
    chunks: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    folder = make_checkpoint(tmp_path / "c", "qwen3", config=HEADS)
    model = ModelConfig.from_folder(folder)
    pages = list(range(500))
    contexts = [(PagedSpan(pages, 0, rows), [PagedSpan(pages, 0, 8000)])] * chunks
    cache = torch.zeros(1, 16, 2, 16)
    taken, real = [], torch.empty

    def noted(*sizes: Any, **options: Any) -> torch.Tensor:
        made = real(*sizes, **options)
        taken.append(made.numel() * made.itemsize)
        return made

    q = torch.zeros(chunks * rows, 16, 16)
    with recorded() as launches:
        kept = partials.prefill_bytes(model, torch.float32, CPU)
        monkeypatch.setattr(torch, "empty", noted)
        csrc_triton.prefill_attention(
            q, cache, cache, PrefillPlan.from_segments(contexts), 0.25, out=torch.zeros_like(q)
        )
    assert 0 < sum(taken) <= kept
    merges = sum(launch.name == "merge._reduce_kernel" for launch in launches)
    assert (merges > 1) == (chunks > 1)


def test_the_kernels_of_a_cpu_leave_none(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", "qwen3", config=HEADS)
    model = ModelConfig.from_folder(folder)
    assert partials.prefill_bytes(model, torch.float32, CPU) == 0
