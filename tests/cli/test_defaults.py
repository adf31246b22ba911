"""With every default the commands and the first page's example run, whatever a model's KV takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from gsr_engine.cli.commands import app
from tests.helpers.checkpoints import make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

README = Path(__file__).parent.parent.parent / "README.md"
# Layers, heads, heads of KV (all of 128 numbers), context.
SHAPES = {
    "Qwen3-0.6B": (28, 16, 8, 40960),
    "Qwen3-4B": (36, 32, 8, 40960),
    "Qwen2.5-7B": (28, 28, 4, 32768),
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with the KV of a model, and nothing else of it. It draws any token, and half
    of them end a stream.
    """
    layers, heads, kv_heads, context = SHAPES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        "qwen3",
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        max_position_embeddings=context,
        architectures=["Qwen3ForCausalLM"],
        dtype="float32",
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = AutoModelForCausalLM.from_config(config).state_dict()
    save_file(
        {name: torch.zeros(one.shape) for name, one in names.items()}, folder / "model.safetensors"
    )
    ends = list(range(0, len(tokenizer), 2))  # 0 is what a greedy draw takes of equals
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return str(folder)


@pytest.mark.parametrize("k", [4, 8])
def test_solve(model: str, k: int) -> None:
    # A seed: of one candidate in two the first token is the last, and all of them may be so.
    flags = ["--k", str(k), "--seed", "1", "--json"]
    done = CliRunner().invoke(app, ["solve", "1+1", "--model", model, *flags])
    assert done.exit_code in (0, 1), done.exception
    result = json.loads(done.stdout)
    assert result["error"] is None
    assert len(result["candidates"]) == k
    assert result["refinement"]["tokens"] > 0


def test_the_first_pages_five_lines(model: str) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert "max_tokens" in block
    exec(block.replace('"path-or-hub-id"', repr(model)), {"__name__": "__main__"})  # noqa: S102
