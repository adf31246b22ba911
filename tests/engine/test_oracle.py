"""The engine's logits and tokens are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.oracle import causal_logits
from gsr_engine import Engine, SamplingParams
from tests.helpers.checkpoints import FAMILIES, load_oracle, make_checkpoint
from tests.helpers.recorder import Recorder

pytestmark = pytest.mark.slow

LENGTHS = [1, 3, 15, 16, 17, 31, 32, 33, 70]
WHOLE = {"max_batch_tokens": 8192}
CHUNKED = {"max_batch_tokens": 24, "max_num_seqs": 24}


def prompts_of(lengths: list[int], vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocab_size, (n,), generator=generator).tolist() for n in lengths]


def worst_difference(
    engine: Engine, oracle: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, n: int = 2
) -> float:
    vocab_size = engine.limits.vocab_size
    recorder = Recorder(monkeypatch, range(vocab_size))
    params = SamplingParams(n=n, max_tokens=20, ignore_eos=True)
    results = engine.generate(prompts_of(LENGTHS, vocab_size), params)
    worst, streams = 0.0, list(recorder.logits)
    for stream in streams:
        prompt = next(
            r.prompt_token_ids
            for r in results
            if stream.segment.token_ids in [c.token_ids for c in r.completions]
        )
        expected = causal_logits(oracle, prompt + stream.segment.token_ids)
        got = recorder.of(stream)
        worst = max(worst, (got - expected[len(prompt) - 1 : -1]).abs().max().item())
    assert len(streams) == n * len(LENGTHS)
    return worst


@pytest.mark.parametrize("options", [WHOLE, CHUNKED], ids=["whole", "chunked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(
    family: str,
    options: dict[str, int],
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefill whole and in chunks, decode in ragged batches, siblings of one prompt."""
    oracle = load_oracle(checkpoints[family])
    with Engine.from_pretrained(checkpoints[family], **options) as engine:
        assert worst_difference(engine, oracle, monkeypatch) <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers(family: str, checkpoints: dict[str, Path]) -> None:
    oracle = load_oracle(checkpoints[family])
    with Engine.from_pretrained(checkpoints[family]) as engine:
        prompts = prompts_of(LENGTHS, engine.limits.vocab_size)
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        for prompt, result in zip(prompts, engine.generate(prompts, params), strict=True):
            expected = oracle.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=24,
                min_new_tokens=24,
                do_sample=False,
                eos_token_id=None,
            )
            assert result.completions[0].token_ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["qwen2", "phi3-partial", "olmo3", "ministral3", "gemma3"])
def test_bfloat16_is_as_near_to_fp32_as_transformers_is(
    family: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerance: at most twice the largest error of transformers in bf16.

    Not for experts: a router that rounds otherwise sends a token elsewhere.
    """
    exact = load_oracle(checkpoints[family])
    rounded = load_oracle(checkpoints[family], torch.bfloat16)
    prompt = prompts_of([70], exact.config.vocab_size)[0]
    theirs = (causal_logits(rounded, prompt) - causal_logits(exact, prompt)).abs().max().item()
    with Engine.from_pretrained(checkpoints[family], dtype="bfloat16") as engine:
        assert worst_difference(engine, exact, monkeypatch) <= 2 * theirs


def test_sharded_weights_and_old_config_spelling(tmp_path: Path, qwen2: Path) -> None:
    """Sharded safetensors load like one file; transformers 4 spells rope and dtype differently."""
    import json

    folder = make_checkpoint(tmp_path / "sharded", "qwen2", max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists()
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    params = SamplingParams(temperature=0.0, max_tokens=12)
    with Engine.from_pretrained(folder) as sharded, Engine.from_pretrained(qwen2) as whole:
        assert (
            sharded.generate(["sharded"], params)[0].completions
            == whole.generate(["sharded"], params)[0].completions
        )
