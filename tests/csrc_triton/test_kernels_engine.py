"""An engine on the kernels draws the tokens of the torch backend, linear and branched."""

import json
from importlib import import_module

import pytest

from csrc_triton import pages
from csrc_triton.contracts import dispatch
from gsr_engine import Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.gsr_config import GsrConfig
from tests.csrc_triton.conftest import INTERPRETED
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.paged import paged_engine

OPTIONS = {"dtype": "float32", "max_num_seqs": 16, "max_batch_tokens": 512}
STREAM = SamplingParams(max_tokens=4, ignore_eos=True)
PROMPT = [5 + i % 80 for i in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of one layer whose head dim the kernels support; it claims both layouts."""
    made = make_checkpoint(tmp_path_factory.mktemp("mistral"), "mistral")
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    GsrConfig(layouts=("linear", "branched")).save(made)
    return made


def kernel_engine(folder, monkeypatch):
    """An engine on the kernels; in the interpreter, CPU tensors must be routed to them."""
    if not INTERPRETED:
        return Engine.from_pretrained(folder, device="cuda", **OPTIONS)
    monkeypatch.setattr(
        dispatch, "implementation", lambda _, module: import_module(f"csrc_triton.{module}")
    )
    monkeypatch.setattr(pages, "vector_major", pages.token_major)  # what these kernels read
    return paged_engine(folder, **OPTIONS)


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_the_same_tokens(layout, folder, monkeypatch):
    params = SelfRefineParams(k=2, layout=layout, candidate=STREAM, refine=STREAM, seed=2)
    sampled = SamplingParams(n=2, max_tokens=3, seed=3, top_p=0.9, ignore_eos=True)

    def tokens(engine):
        with engine:
            result = engine.self_refine(["1+1"], params)[0]
            drawn = engine.generate([PROMPT], sampled)[0]
        return [c.token_ids for c in (*result.candidates, result.refinement, *drawn.completions)]

    expected = tokens(Engine.from_pretrained(folder, device="cpu", **OPTIONS))
    assert tokens(kernel_engine(folder, monkeypatch)) == expected
