"""What one layer launches on a GPU, counted on CPU tensors: kernels, products, and nothing else."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.kernels.launches import recorded
from csrc_triton import pages
from gsr_engine import SamplingParams
from gsr_engine.model import linear
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter runs the kernels"
)
VIEWS = {"view", "_unsafe_view", "split", "split_with_sizes", "slice", "select", "t", "transpose"}
# Beside views: memory, which is of zeros here, and what is called with, or within, a counted call.
NO_LAUNCHES = (
    VIEWS | {"empty", "new_empty", "zeros", "zeros_like", "zero_"} | {"flatten", "mm", "addmm"}
)
EVERY = Counter(
    {
        "linear": 4,
        "norm._rms_norm_kernel": 2,
        "rope._rope_and_cache_kernel": 1,
        "activation._gated_activation_kernel": 1,
    }
)
DECODE = Counter({"decode._work_list_kernel": 1, "merge._reduce_kernel": 1})
PREFILL = Counter({"prefill._prefill_kernel": 1})


class Operators(TorchDispatchMode):
    """Counts torch's operators that launch something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        if name not in NO_LAUNCHES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def launched_by(folder: Path) -> tuple[Counter[str], Counter[str]]:
    """What a step that decodes launches, and one that also prefills."""
    options = {"dtype": "float32", "kv_cache_gib": 0.002, "cuda_graphs": False}
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    found: list[Counter[str]] = []
    with recorded() as launches, paged_engine(folder, **options) as engine:
        for submitted in (True, False, False, True):
            if submitted:
                engine.submit(engine.new_generate([5, 6, 7], params))
            launches.clear()
            with Operators() as operators:
                engine.step()
            found.append(operators.counts + Counter(launch.name for launch in launches))
    return found[2], found[3]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_layer_launches_products_and_kernels_and_copies_nothing(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the norm of heads (Qwen3) as without: one kernel for norm, rotation and store."""
    pytest.importorskip("triton")
    monkeypatch.setattr(pages, "vector_major", pages.token_major)  # what these kernels read
    monkeypatch.setattr(linear, "has_cpu_kernels", lambda dtype: False)  # they pack weights
    # Results of kernels that do not run are zeros, so that logits are finite.
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch, "empty_like", torch.zeros_like)
    steps = []
    for layers in (1, 3):
        config = {"num_hidden_layers": layers, "num_attention_heads": 3, "num_key_value_heads": 1}
        steps.append(launched_by(make_checkpoint(tmp_path / f"{layers}", family, config=config)))
    for (one, three), expected in zip(
        zip(*steps, strict=True), (EVERY + DECODE, EVERY + DECODE + PREFILL), strict=True
    ):
        of_two_layers = {name: count - one[name] for name, count in three.items()}
        assert {k: n for k, n in of_two_layers.items() if n} == {
            k: 2 * n for k, n in expected.items()
        }
