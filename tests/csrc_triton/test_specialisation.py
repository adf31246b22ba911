"""While an engine serves, its launches ask Triton for few programs, whatever the steps bring.

Triton compiles a kernel anew for every set of types, constants and alignments. On a GPU that takes
seconds, and every stream waits. So here an engine lives through hundreds of random steps while the
kernels are recorded, and what the compiler would be asked for is counted.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kernels.launches import Launch, recorded
from csrc_triton import pages
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.model import experts
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter specialises nothing"
)
OPTIONS = {"max_num_seqs": 24, "max_batch_tokens": 96, "kv_cache_gib": 0.002}
DRAFTS = {"method": "ngram", "num_speculative_tokens": 3}
SHAPE = {"num_attention_heads": 6, "num_key_value_heads": 2, "num_hidden_layers": 2}
LAYERS = ["sliding_attention", "full_attention"]
VARIANTS = {
    # Items of at most 16, 32 or 64 lanes, each with and without a window.
    "decode._work_list_kernel": 6,
    "merge._reduce_kernel": 1,
    "prefill._prefill_kernel": 2,
    "rope._rope_and_cache_kernel": 1,
    # With and without a residual.
    "norm._rms_norm_kernel": 2,
    # Logits of the model, and in fp32 those that penalties edit; their blocks at temperature 1, and
    # at that of a row.
    "logprobs._summary_kernel": 4,
    "logprobs._logprob_kernel": 2,
    "sampling._pack_kernel": 2,
    "sampling._draw_kernel": 2,
}
"""The programs of one model in one dtype."""


@pytest.fixture
def zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of kernels that do not run are zeros, so that logits are finite."""
    monkeypatch.setattr(torch, "empty", torch.zeros)
    monkeypatch.setattr(torch, "empty_like", lambda x, **_: torch.zeros(x.shape, dtype=x.dtype))
    monkeypatch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)


def submit(engine: Engine, rng: random.Random) -> None:
    """A random request: prompts of any length, siblings, both layouts."""
    prompt = [rng.randrange(6, 90) for _ in range(rng.choice([1, 7, 16, 40, 130]))]
    tokens = {"max_tokens": rng.randint(1, 60), "ignore_eos": True}
    if rng.random() < 0.5:
        extra = rng.choice([{}, {"presence_penalty": 0.5}, {"top_logprobs": 2}])
        params = SamplingParams(n=rng.choice([1, 1, 2, 5, 12]), top_p=0.9, **extra, **tokens)
        engine.submit(engine.new_generate(prompt, params))
        return
    sampling = SamplingParams(**tokens)
    refined = SelfRefineParams(
        k=rng.randint(1, 6),
        layout=rng.choice(["linear", "branched"]),
        candidate=sampling,
        refine=sampling,
    )
    engine.submit(engine.new_self_refine("1" * rng.choice([1, 20, 70]), refined))


def live(engine: Engine, steps: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(steps):
        if rng.random() < 0.08 or not engine.has_work:
            submit(engine, rng)
        engine.step()


def keys(launches: list[Launch]) -> dict[str, set[str]]:
    """For each kernel, what tells its programs apart."""
    found: dict[str, set[str]] = defaultdict(set)
    for one in launches:
        parts: list[Any] = [sorted(one.signature.items()), sorted(one.constants.items(), key=str)]
        found[one.name].add(repr([*parts, sorted(one.aligned), sorted(one.options.items())]))
    return found


def test_few_programs_serve_every_step_and_the_start_launches_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zeros: None
) -> None:
    pytest.importorskip("triton")
    config = {**SHAPE, "layer_types": LAYERS}
    folder = make_checkpoint(tmp_path / "c", "gemma3", config=config)
    GsrConfig(layouts=("linear", "branched")).save(folder)
    monkeypatch.setattr(pages, "vector_major", pages.token_major)  # what these kernels read
    monkeypatch.setattr(experts, "has_cpu_kernels", lambda dtype: False)  # they pack no weights
    options = {"dtype": "bfloat16", **OPTIONS}
    for seed, how in enumerate(
        [{"cuda_graphs": True}, {"cuda_graphs": False}, {"speculative_config": DRAFTS}]
    ):
        with recorded() as launches, paged_engine(folder, **options, **how) as engine:
            at_start = keys(launches)
            assert {name: len(programs) for name, programs in at_start.items()} == VARIANTS
            live(engine, 300, seed)
        assert keys(launches) == at_start


EXPERTS = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
OF_16 = {"num_attention_heads": 3, "num_key_value_heads": 3}  # dims of a head


@pytest.mark.parametrize(
    ("family", "config"),
    [("qwen3moe", EXPERTS), ("qwen3", {}), ("olmo2", OF_16)],
    ids=["experts", "norms of heads", "norms of projections"],
)
def test_the_start_launches_what_a_family_needs(
    family: str,
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zeros: None,
) -> None:
    """Also the tiles that only the largest steps take, long contexts, and scores of prompts."""
    pytest.importorskip("triton")
    folder = make_checkpoint(tmp_path / "c", family, config={**SHAPE, **config})
    GsrConfig(layouts=("linear", "branched")).save(folder)
    monkeypatch.setattr(pages, "vector_major", pages.token_major)
    monkeypatch.setattr(experts, "has_cpu_kernels", lambda dtype: False)
    scored = SamplingParams(max_tokens=2, prompt_logprobs=2)
    with recorded() as launches, paged_engine(folder, dtype="bfloat16", **OPTIONS) as engine:
        at_start = keys(launches)
        engine.generate([[7, 8] * 100, [9]], [scored, SamplingParams(n=20, max_tokens=40)])
        live(engine, 60, 1)
    assert keys(launches) == at_start
