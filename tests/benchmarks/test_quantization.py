"""The losses of `benchmarks.quantization` against transformers and plain arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.oracle import causal_logits
from benchmarks.peers.text_loss import next_token_loss
from benchmarks.quantization.__main__ import main
from benchmarks.quantization.losses import Fp32Reference, decoder_loss, hidden_states
from benchmarks.quantization.refinement import measure_refinement
from benchmarks.quantization.texts import contexts
from benchmarks.quantization.variants import DEFAULT, VARIANTS, own_blocks
from gsr_engine import EngineConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.demo.report import NANO
from gsr_engine.errors import InvalidRequest, UnsupportedModel
from gsr_engine.execution.loading import load_parts
from gsr_engine.model.decoder import Decoder, Mlp
from gsr_engine.model.linear import Int8Linear
from gsr_engine.model.weights import load_decoder
from tests.helpers.gguf_files import tiny_model, write_gguf

pytestmark = pytest.mark.slow


@pytest.fixture
def decoder(qwen2: Path) -> Decoder:
    return load_decoder(qwen2, ModelConfig.from_folder(qwen2), torch.float32)


@pytest.fixture
def token_ids(qwen2: Path) -> list[int]:
    (first,) = contexts(Tokenizer.from_folder(qwen2), 40, 1)["code"]
    return first


def test_logits_are_those_of_transformers(
    qwen2: Path, decoder: Decoder, token_ids: list[int]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        qwen2, dtype=torch.float32, attn_implementation="eager"
    )
    expected = causal_logits(model, token_ids)
    found = decoder.logits(hidden_states(decoder, token_ids))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    loss = next_token_loss(expected.numpy(), token_ids)
    assert decoder_loss(decoder, [token_ids]) == pytest.approx(loss, abs=1e-4)


def test_a_decoder_is_at_no_distance_of_itself_and_8_bits_are(
    decoder: Decoder, token_ids: list[int]
) -> None:
    texts = {"one": [token_ids], "two": [token_ids[::-1], token_ids]}
    reference = Fp32Reference(decoder, texts)
    same, rounded = reference.distance(decoder), reference.distance(DEFAULT.of(decoder))
    assert (same.change, same.top1) == (0, 1)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert rounded.loss - same.loss == pytest.approx(rounded.change) != 0
    by_text = rounded.change_by_text
    assert rounded.change == pytest.approx((by_text["one"] + 2 * by_text["two"]) / 3)
    assert 1e-6 < rounded.kl < 0.1
    assert 0.5 < rounded.top1 <= 1


def test_a_variant_quantises_what_it_does_not_keep(decoder: Decoder) -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == 12
    kept = next(one for one in VARIANTS if one.name == "g32, all but head, down, o").of(decoder)
    for before, after in zip(decoder.layers, kept.layers, strict=True):
        assert isinstance(before.mlp, Mlp)
        assert isinstance(after.mlp, Mlp)
        assert isinstance(after.qkv, Int8Linear)
        assert isinstance(after.mlp.gate_up, Int8Linear)
        assert after.qkv.quantized.group == 32
        assert (after.output, after.mlp.down) == (before.output, before.mlp.down)
        error = (after.qkv.dense() - before.qkv.dense()).abs().max()
        assert 0 < error <= before.qkv.dense().abs().max() / 127 / 2 * 1.01
    assert kept.head is decoder.head
    assert isinstance(DEFAULT.of(decoder).head, Int8Linear)


def test_the_default_variant_is_what_the_engine_does(
    qwen2: Path, decoder: Decoder, token_ids: list[int]
) -> None:
    engines, _, _ = load_parts(qwen2, EngineConfig(dtype="float32", quantization="int8"))
    logits = [one.logits(hidden_states(one, token_ids)) for one in (engines, DEFAULT.of(decoder))]
    assert torch.equal(*logits)


def test_the_blocks_of_a_q8_file_stay_what_they_are(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "Q8_0")
    decoder = load_decoder(file, ModelConfig.from_folder(file), torch.float32)
    variant = own_blocks(file)
    assert (variant.name, variant.group) == ("the file's own blocks (Q8_0)", 32)
    before, after = decoder.layers[0].output, variant.of(decoder).layers[0].output
    torch.testing.assert_close(after.dense(), before.dense(), atol=0, rtol=1e-6)
    plain = write_gguf(tmp_path / "plain.gguf", tiny_model("llama"))
    with pytest.raises(UnsupportedModel, match=r"plain\.gguf has no quantised matrix"):
        own_blocks(plain)


def test_texts_are_cut_in_order_and_never_short(qwen2: Path) -> None:
    tokenizer = Tokenizer.from_folder(qwen2)
    cut = contexts(tokenizer, 50, 2)
    assert list(cut) == ["documents", "code"]
    assert [len(one) for text in cut.values() for one in text] == [50] * 4
    assert tokenizer.decode(cut["code"][0] + cut["code"][1]).startswith('"""')
    with pytest.raises(InvalidRequest, match="1 of 1000000 tokens are more than the"):
        contexts(tokenizer, 10**6, 1)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, qwen2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(model=qwen2, only="g64, all linears", losses=True, puzzles=0, out=tmp_path)
    run = json.loads((tmp_path / "quantization.json").read_text())
    assert list(run["losses"]) == ["fp32", "g64, all linears"]
    assert run["tokens"] == 6144
    printed = capsys.readouterr().out
    assert f"{run['losses']['fp32']['loss']:.4f}" in printed
    assert (tmp_path / "quantization.txt").read_text().strip() in printed


def test_refinement_is_compared_puzzle_by_puzzle() -> None:
    scores = measure_refinement(NANO, 3, [DEFAULT])
    assert list(scores) == ["fp32", DEFAULT.name]
    assert list(scores["fp32"]) == ["pass@1", "maj@4", "selfRef@4 linear", "selfRef@4 branched"]
    for method, exact in scores["fp32"].items():
        ours = scores[DEFAULT.name][method]
        assert (exact.change.mean, exact.change.high) == (0, 0)
        assert ours.share.mean - exact.share.mean == pytest.approx(ours.change.mean)
