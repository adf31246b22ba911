"""The count of operations equals torch's; the count of attended pairs equals the mask's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.checkpoints import FAMILIES, make_checkpoint
from tests.helpers.tiny import make_examples, tiny_config
from train.rows import Row
from train.trainer.attention import branch_mask
from train.trainer.batches import collate
from train.trainer.flops import Flops, peak_flops, visible_pairs
from train.trainer.model import build_model, load_weights, read_model_config
from train.trainer.world import joined


@settings(deadline=None)
@given(
    fork=st.integers(1, 6),
    lengths=st.lists(st.integers(1, 5), max_size=4),
    joined_tokens=st.integers(1, 6),
)
def test_pairs_are_those_of_the_mask(fork: int, lengths: list[int], joined_tokens: int) -> None:
    total = fork + sum(lengths) + joined_tokens
    row = Row("refine", list(range(total)), total - 1, fork, lengths, 50)
    assert visible_pairs(row) == int(branch_mask(torch.from_numpy(row.branches)).sum())


@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3", "llama3", "mistral", "phi3", "smollm3", "olmo2", "gemma3"]
)
def test_operations_are_what_torch_counts(family: str, tmp_path: Path) -> None:
    """Products to the last one (torch counts no attention on a CPU), pairs by their formula."""
    wide = {"sliding_window": 1024} if FAMILIES[family].get("sliding_window") else {}
    folder = make_checkpoint(tmp_path / "c", family, config=wide)
    rows = [example.row for example in make_examples(folder, 1)]
    with joined() as world:
        config = tiny_config(folder, folder, folder)
        trainee = build_model(read_model_config(folder), config, world.mesh(0))
        load_weights(trainee, folder)
        with FlopCounterMode(display=False) as counter:
            trainee(collate(rows, torch.device("cpu"))).sum().backward()
    products = counter.get_total_flops()
    flops = Flops.of(trainee.hf.config)
    without_pairs = Flops(flops.layers, flops.head, 0)
    assert without_pairs.of_rows(rows) == (products, products)
    shape = trainee.hf.config
    width = shape.num_attention_heads * (getattr(shape, "head_dim", None) or shape.hidden_size // 4)
    pair = 12 * shape.num_hidden_layers * width  # scores and sum, 2 each; the backward twice that
    seen, full = (one - products for one in flops.of_rows(rows))
    assert full == pair * sum(len(row) ** 2 for row in rows)
    assert seen == pair * sum(map(visible_pairs, rows))


def test_a_cpu_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops(torch.device("cpu")) is None
    names = {"NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12, "NVIDIA T4": None}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak
