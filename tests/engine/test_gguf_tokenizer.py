"""The tokenizer of a GGUF file has the ids of the tokenizer that the file was written from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedModel

from gsr_engine import CheckpointError, UnsupportedModel
from gsr_engine.checkpoint.gguf.pre_tokenizers import PRE_TOKENIZERS
from gsr_engine.checkpoint.tokenizer import Tokenizer as EngineTokenizer
from tests.helpers.chat_tokenizers import chat_tokenizer
from tests.helpers.gguf_files import NORMAL, tiny_model, tokenizer_fields, write_gguf

pytestmark = pytest.mark.slow

TEXTS = (
    "",
    "hello world, what is two?",
    "  12 345  678\n\n\t x1y22",
    "Don't, WE'LL it's I'M",
    "Ünïcödé: 東京 مرحبا 🙂👩‍👩‍👧 é",
    "camelCase HTTPServer a/b//c \r\n  \r\n end   ",
    "١٢٣ ½ Ⅷ x² 10^3 <= >= != $5 `code`",
    "<|im_start|>user\nhello<|im_end|>\n<think>two</think>",
)
# As the checkpoints' own tokenizer.json have it; no pattern here is shared with the engine's.
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
PUBLISHED: dict[str, pre_tokenizers.PreTokenizer] = {
    "gpt-2": GPT2,
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2]),
    "qwen2": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
    "tekken": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*"
                    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?"
                    "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}|"
                    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
                ),
                "isolated",
            ),
            BYTES,
        ]
    ),
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama", vocab_size=600)


def tokenizer_of(
    path: Path, model: PreTrainedModel, fields: dict[str, Any], **metadata: Any
) -> EngineTokenizer:
    return EngineTokenizer.from_folder(write_gguf(path, model, tokenizer=fields, **metadata))


@pytest.mark.parametrize("name", PUBLISHED)
@given(text=st.text(st.sampled_from("ab Zé1٣½\n\r\t'sS.,/$-東́🙂<"), max_size=30))
def test_words_are_cut_as_published(name: str, text: str) -> None:
    for one in (text, *TEXTS):
        ours = PRE_TOKENIZERS[name].pre_tokenizer().pre_tokenize_str(one)
        assert ours == PUBLISHED[name].pre_tokenize_str(one)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_words_lose_nothing(name: str) -> None:
    cut = PRE_TOKENIZERS[name].pre_tokenizer()
    for text in TEXTS:
        spelt = "".join(word for word, _ in cut.pre_tokenize_str(text))
        assert spelt == "".join(word for word, _ in BYTES.pre_tokenize_str(text))


@pytest.mark.parametrize("kind", ["byte-level", "turns-not-special"])
def test_ids_and_texts_are_those_of_the_tokenizer(
    kind: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    theirs = chat_tokenizer(kind, "plain")
    ours = tokenizer_of(tmp_path / "x.gguf", model, tokenizer_fields(theirs))
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode_prompt(text) == ids
        assert ours.encode_markup(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == EngineTokenizer(theirs, ours.stop_ids).decode(ids)
    messages = [{"role": "system", "content": "be good"}, {"role": "user", "content": "two 12"}]
    assert ours.chat(messages) == theirs.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert ours.end_id == theirs.eos_token_id


def sentence_piece(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, plainly: the neighbours with the best score become one, until none do.

    Of letters without a piece the bytes remain.
    """
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while pairs := [
        (scores[parts[i] + parts[i + 1]], -i)
        for i in range(len(parts) - 1)
        if parts[i] + parts[i + 1] in scores
    ]:
        at = -max(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    known = [
        [part] if part in scores else [f"<0x{b:02X}>" for b in part.encode()] for part in parts
    ]
    return [piece for pieces in known for piece in pieces]


@pytest.fixture(scope="module")
def piecewise(
    model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EngineTokenizer, dict[str, Any]]:
    """A SentencePiece tokenizer from a file, and the file's fields."""
    fields = tokenizer_fields(chat_tokenizer("legacy", "plain"), "llama")
    return tokenizer_of(tmp_path_factory.mktemp("spm") / "x.gguf", model, fields), fields


@given(text=st.text(st.sampled_from("hello world wtishansw two is\n東é🙂"), max_size=40))
def test_sentencepiece_merges_the_best_score_first(
    text: str, piecewise: tuple[EngineTokenizer, dict[str, Any]]
) -> None:
    tokenizer, fields = piecewise
    tokens, types, scores = (
        fields[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores")
    )
    normal = {
        token: score
        for token, kind, score in zip(tokens, types, scores, strict=True)
        if kind == NORMAL
    }
    expected = [tokens.index(piece) for piece in sentence_piece(text, normal)]
    assert tokenizer.encode_text(text) == expected
    assert tokenizer.encode_prompt(text) == [1, *expected]
    assert tokenizer.decode(expected) == text


def test_a_word_that_is_a_token_is_not_merged(model: PreTrainedModel, tmp_path: Path) -> None:
    """Llama 3 has words that its merges do not reach."""
    fields = tokenizer_fields(chat_tokenizer("byte-level", "plain"))
    fields["tokenizer.ggml.tokens"][5] = "xyzzy"
    for name, whole in (("llama-bpe", True), ("qwen2", False)):
        fields["tokenizer.ggml.pre"] = name
        tokenizer = tokenizer_of(tmp_path / f"{name}.gguf", model, fields)
        assert (tokenizer.encode_text("xyzzy") == [5]) is whole


def test_start_and_end_of_a_prompt(model: PreTrainedModel, tmp_path: Path) -> None:
    fields = tokenizer_fields(chat_tokenizer("byte-level", "plain"))
    bos, eos = (fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos"))
    for number, (flags, before, after) in enumerate(
        (
            ({"add_bos_token": False}, [], []),
            ({"add_bos_token": True, "add_eos_token": True}, [bos], [eos]),
            ({"add_bos_token": None}, [], []),
            ({"add_bos_token": None, "pre": "llama-bpe"}, [bos], []),
        )
    ):
        own = fields | {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
        tokenizer = tokenizer_of(tmp_path / f"{number}.gguf", model, own)
        assert tokenizer.encode_prompt("x") == [*before, *tokenizer.encode_text("x"), *after]


def test_end_tokens_are_those_named_and_those_known_by_text(
    model: PreTrainedModel, tmp_path: Path
) -> None:
    hf = chat_tokenizer("byte-level", "plain")
    fields = tokenizer_fields(hf)
    end, turn = hf.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    tokenizer = tokenizer_of(tmp_path / "a.gguf", model, fields)
    assert tokenizer.stop_ids == {end, turn}
    named = {f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("eot", "eom"), 9)}
    tokenizer = tokenizer_of(tmp_path / "b.gguf", model, fields | named)
    assert tokenizer.stop_ids == {end, turn, 9, 10}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pre": "new-one"}, "tokenizer.ggml.pre 'new-one' is not supported; supported are def"),
        ({"pre": None}, "lacks 'tokenizer.ggml.pre'"),
        ({"model": "t5"}, "tokenizer.ggml.model 't5' is not supported; supported are gpt2, llama"),
        ({"model": None}, "lacks 'tokenizer.ggml.model'"),
        ({"model": "llama"}, "tokenizer.ggml.scores must be an array of float, got None"),
        ({"tokens": None}, "tokenizer.ggml.tokens must be an array of str, got None"),
        ({"tokens": ["a", "a"]}, "tokenizer.ggml.tokens has a token twice"),
        ({"token_type": [1]}, "tokenizer.ggml.token_type has 1 elements, not"),
        ({"merges": ["ab"]}, "merges holds 'ab', which is no pair"),
        ({"merges": ["zz yy"]}, "has no usable tokenizer"),
        ({"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id must be an integer from 0 to"),
        ({"add_bos_token": 3}, "tokenizer.ggml.add_bos_token must be true or false, got 3"),
    ],
)
def test_a_bad_tokenizer_is_refused_by_name(
    fields: dict[str, Any], message: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    own = tokenizer_fields(chat_tokenizer("byte-level", "plain"))
    own |= {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        tokenizer_of(tmp_path / "bad.gguf", model, own)
    assert "bad.gguf" in str(caught.value)
    assert isinstance(caught.value, UnsupportedModel) == ("not supported" in message)


def test_a_token_without_a_row_of_the_embedding(tmp_path: Path) -> None:
    own = tokenizer_fields(chat_tokenizer("byte-level", "plain"))
    with pytest.raises(CheckpointError, match=r"tokens has 305 tokens, token_embd.* has 304 rows"):
        tokenizer_of(tmp_path / "bad.gguf", tiny_model("llama", vocab_size=304), own)


def test_pieces_of_sentencepiece_are_not_too_long(model: PreTrainedModel, tmp_path: Path) -> None:
    own = tokenizer_fields(chat_tokenizer("legacy", "plain"), "llama")
    own["tokenizer.ggml.tokens"][9] = "x" * 100_000
    with pytest.raises(CheckpointError, match="has one of over 1024 characters"):
        tokenizer_of(tmp_path / "bad.gguf", model, own)


def test_the_tokenizer_keeps_every_byte() -> None:
    """So a text is refused by its exact length."""
    raw = Tokenizer.from_str(chat_tokenizer("byte-level", "plain").backend_tokenizer.to_str())
    for name, cut in PRE_TOKENIZERS.items():
        raw.pre_tokenizer = cut.pre_tokenizer()
        for text in TEXTS:
            assert raw.decode(raw.encode(text).ids, skip_special_tokens=False) == text, name
