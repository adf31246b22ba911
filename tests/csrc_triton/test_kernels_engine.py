"""An engine on the kernels draws the tokens of the torch backend, linear and branched."""

from importlib import import_module

import pytest

from csrc_triton import pages
from csrc_triton.contracts import dispatch
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.model import experts
from tests.csrc_triton.conftest import INTERPRETED
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine

OPTIONS = {"dtype": "float32", "max_num_seqs": 16, "max_batch_tokens": 512}
STREAM = SamplingParams(max_tokens=4, ignore_eos=True)
PROMPT = [5 + i % 80 for i in range(20)]


# Windows, experts, norms around, a second gate: each as few layers as show it.
FAMILIES = {
    "mistral": {"num_hidden_layers": 1},
    "qwen3moe": {"num_hidden_layers": 1, "mlp_only_layers": []},
    "olmo3": {"num_hidden_layers": 1, "hidden_size": 64, "layer_types": ["sliding_attention"]},
    "gemma3": {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]},
}


def kernel_engine(folder, monkeypatch):
    """An engine on the kernels; in the interpreter, CPU tensors must be routed to them."""
    if not INTERPRETED:
        return Engine.from_pretrained(folder, device="cuda", **OPTIONS)
    monkeypatch.setattr(
        dispatch, "implementation", lambda _, module: import_module(f"csrc_triton.{module}")
    )
    monkeypatch.setattr(pages, "vector_major", pages.token_major)  # what these kernels read
    monkeypatch.setattr(experts, "has_cpu_kernels", lambda dtype: False)  # they pack no weights
    return paged_engine(folder, **OPTIONS)


@pytest.mark.skipif(INTERPRETED, reason="needs a GPU, whose weights have another layout")
@pytest.mark.parametrize("family", ["mistral", "qwen3moe"])
def test_other_weights_take_the_place_of_the_first(family, tmp_path):
    first, second = (
        make_checkpoint(tmp_path / str(seed), family, seed=seed, config=FAMILIES[family])
        for seed in range(2)
    )
    with Engine.from_pretrained(second, device="cpu", **OPTIONS) as engine:
        expected = engine.generate([PROMPT], STREAM)[0].completions[0].token_ids
    with Engine.from_pretrained(first, device="cuda", **OPTIONS) as engine:
        engine.generate([PROMPT], STREAM)
        engine.reload_weights(second)
        assert engine.generate([PROMPT], STREAM)[0].completions[0].token_ids == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_tokens(family, tmp_path, monkeypatch):
    """Head dims are those that the kernels support."""
    folder = make_checkpoint(tmp_path / "c", family, config=FAMILIES[family])
    GsrConfig(layouts=("linear", "branched")).save(folder)
    layout = "linear" if family == "mistral" else "branched"
    params = SelfRefineParams(k=2, layout=layout, candidate=STREAM, refine=STREAM, seed=2)
    sampled = SamplingParams(n=2, max_tokens=3, seed=3, top_p=0.9, ignore_eos=True)

    def tokens(engine):
        with engine:
            result = engine.self_refine(["1+1"], params)[0]
            drawn = engine.generate([PROMPT], sampled)[0]
        return [c.token_ids for c in (*result.candidates, result.refinement, *drawn.completions)]

    expected = tokens(Engine.from_pretrained(folder, device="cpu", **OPTIONS))
    assert tokens(kernel_engine(folder, monkeypatch)) == expected
