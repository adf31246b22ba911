"""What a step asks of a GPU: its kernels, and the calls that the host makes.

The README of the engine has these figures. An engine runs while its kernels are recorded; products
and other operations of torch are counted beside them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.kernels.launches import Launch, recorded
from csrc_triton import pages
from gsr_engine import Engine, SamplingParams
from gsr_engine.model import experts
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine
from tests.helpers.playing import lay_out_as_on_a_gpu

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter records nothing"
)
OPTIONS: dict[str, Any] = {"dtype": "bfloat16", "max_num_seqs": 16, "kv_cache_gib": 0.004}
ONE = SamplingParams(max_tokens=30, ignore_eos=True)
STREAMS = replace(ONE, n=8)
_VIEWS = {
    "view",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unbind",
    "flatten",
    "t",
    "detach",
}
_MEMORY = {"empty", "new_empty", "zeros", "lift_fresh", "to", "resolve_conj", "resolve_neg"}
_NO_LAUNCHES = _VIEWS | _MEMORY
"""Operations of torch that launch nothing: here `to` has nothing to do."""


class Operations(TorchDispatchMode):
    """Counts those operations of torch that launch something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in _NO_LAUNCHES:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and pages have a GPU's layout; results of kernels that do not run are zeros."""
    pytest.importorskip("triton")
    lay_out_as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(pages, "vector_major", pages.token_major)
    monkeypatch.setattr(experts, "has_cpu_kernels", lambda dtype: False)
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch, "empty_like", lambda x, **_: torch.zeros(x.shape, dtype=x.dtype))


class Steps:
    """Counts what one step after the other launches."""

    def __init__(self, engine: Engine, launches: list[Launch]) -> None:
        self._engine, self._launches = engine, launches

    def next(self) -> Counter[str]:
        """The launches of the next step, by name."""
        operations = Operations()
        self._launches.clear()
        with operations:
            self._engine.step()
        kernels = Counter(one.name.partition(".")[2] for one in self._launches)
        return kernels + operations.counts


def steps(folder: Path, family: str, layers: int, **options: Any) -> Iterator[Counter[str]]:
    """Of an engine over so many layers: a step of 8 streams, and one beside a long prompt."""
    shape = {"num_hidden_layers": layers, "hidden_size": 64, "head_dim": 16}
    checkpoint = make_checkpoint(folder / str(layers), family, config=shape)
    with recorded() as launches, paged_engine(checkpoint, **OPTIONS, **options) as engine:
        counted = Steps(engine, launches)
        engine.submit(engine.new_generate([7] * 20, STREAMS))
        for _ in range(3):
            counted.next()
        yield counted.next()
        engine.submit(engine.new_generate([8] * 150, ONE))  # too long for a graph
        yield counted.next()


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_what_a_step_launches_besides_its_layers(family: str, tmp_path: Path) -> None:
    two, three = (list(steps(tmp_path, family, layers)) for layers in (2, 3))
    decode, mixed = (more.total() - less.total() for more, less in zip(three, two, strict=True))
    assert (decode, mixed) == (10, 11)  # of a layer
    outside = Counter({"linear": 1, "_summary_kernel": 2, "_pack_kernel": 1, "_draw_kernel": 1})
    outside += Counter({"_logprob_kernel": 1, "_rms_norm_kernel": 1, "lt": 1, "where": 1})
    # A graph copies hidden states, tokens and log-probabilities; its inputs are three copies.
    graphs = outside + Counter({"index": 2, "copy_": 3 + 3})
    eagerly = outside + Counter({"index": 4, "copy_": 1})
    assert (graphs.total(), eagerly.total()) == (14 + 3, 14)
    for step, expected in zip(two, (graphs, eagerly), strict=True):
        for name, count in expected.items():
            of_layers = {"linear": 2 * 4, "_rms_norm_kernel": 2 * 2}.get(name, 0)
            assert step[name] == count + of_layers
    assert [step.total() for step in two] == [2 * 10 + 17, 2 * 11 + 14]
