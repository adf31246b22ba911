"""Texts that no context can hold are refused by their length, and no other text is."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RawTokenizer

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.text_bound import SLACK, bytes_per_token
from gsr_engine.checkpoint.tokenizer import Tokenizer

BYTES = {sign: i for i, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def byte_level(**options: Any) -> RawTokenizer:
    """A token for each byte, and one of three letters."""
    vocab = BYTES | {"ab": 256, "abc": 257}
    raw = RawTokenizer(models.BPE(vocab, [("a", "b"), ("ab", "c")], **options))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return raw


def test_a_tokenizer_that_keeps_every_byte_has_an_exact_bound() -> None:
    raw = byte_level()
    assert bytes_per_token(raw) == len("abc")
    raw.add_special_tokens(["<|a special token|>"])
    assert bytes_per_token(raw) == len("<|a special token|>")


def test_byte_fallback_is_exact_if_every_byte_has_a_token() -> None:
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"?": 256}
    for number in (256, 255):
        some = {key: i for i, key in enumerate([*vocab][256 - number :])}
        raw = RawTokenizer(models.BPE(some, [], byte_fallback=True, unk_token="?"))
        assert bytes_per_token(raw) == len("<0x00>") * (1 if number == 256 else SLACK)


def loses_spaces() -> RawTokenizer:
    raw = byte_level()
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), raw.pre_tokenizer])
    return raw


def composes() -> RawTokenizer:
    raw = byte_level()
    raw.normalizer = normalizers.NFC()
    return raw


def lacks_a_byte() -> RawTokenizer:
    vocab = {key: i for i, key in enumerate(sorted(BYTES)[1:])}
    raw = RawTokenizer(models.BPE(vocab, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return raw


def takes_spaces_along() -> RawTokenizer:
    raw = byte_level()
    raw.add_tokens([AddedToken("ab", lstrip=True)])
    return raw


@pytest.mark.parametrize("make", [loses_spaces, composes, lacks_a_byte, takes_spaces_along])
def test_a_tokenizer_that_may_shorten_a_text_is_granted_more(make: Any) -> None:
    raw = make()
    assert bytes_per_token(raw) == SLACK * max(len(one.encode()) for one in raw.get_vocab())


@given(text=st.text(alphabet="abc é€😀\n", max_size=40))
def test_no_text_has_more_bytes_than_its_tokens_allow(text: str) -> None:
    for raw in (byte_level(), composes()):
        assert len(text.encode()) <= bytes_per_token(raw) * len(raw.encode(text).ids)


def test_unicode_normal_forms_shorten_by_less_than_the_slack() -> None:
    """A normal form replaces each character, then composes: the product of both ratios."""
    replaced = composed = 1.0
    for code in range(sys.maxunicode + 1):
        if 0xD800 <= code < 0xE000:
            continue
        sign, size = chr(code), len(chr(code).encode())
        replaced = max(replaced, size / len(unicodedata.normalize("NFKD", sign).encode()))
        composed = max(composed, len(unicodedata.normalize("NFD", sign).encode()) / size)
    assert replaced * composed < SLACK


def refused(call: Any, *arguments: Any, **more: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        call(*arguments, **more)
    return caught.value


def test_too_long_a_text_is_refused_without_tokenising(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.from_pretrained(qwen2, max_model_len=64) as engine:
        most = 64 * engine.tokenizer.bytes_per_token
        far = "1" * (most + 1)
        seen: list[int] = []
        for name in ("encode_prompt", "encode_solution", "chat_parts"):
            encode = getattr(Tokenizer, name)

            def counting(self: Tokenizer, text: Any, *more: Any, encode: Any = encode) -> Any:
                messages = [{"content": text}] if isinstance(text, str) else text
                seen.append(sum(len(message["content"]) for message in messages))
                return encode(self, text, *more)

            monkeypatch.setattr(Tokenizer, name, counting)
        turn = {"role": "user", "content": far[: most // 2 + 1]}
        for error, field in (
            (refused(engine.generate, [far]), "prompt"),
            (refused(engine.self_refine, [far]), "problem"),
            (refused(engine.self_refine, [far], refiner=engine), "problem"),
            (refused(engine.chat, [[turn, turn]]), "messages"),
            (refused(engine.direct_prompt, far), "problem"),
            (refused(engine.self_refine, ["1"], candidates=[["2", far * 4]]), "candidates"),
        ):
            assert error.field == field
            assert "max_model_len 64" in str(error)
            assert f"at most {most} bytes" in str(error) or field == "candidates"
        assert max(seen, default=0) <= 1
        # One byte fewer may fit for all that its length says, so it is tokenised and counted.
        assert "tokens" in str(refused(engine.generate, ["1" * most]))
        assert max(seen) == most
        # Characters of several bytes count as these.
        assert "bytes or more" in str(refused(engine.generate, ["€" * (most // 3 + 1)]))


def test_white_space_around_a_problem_does_not_count(qwen2: Path) -> None:
    with Engine.from_pretrained(qwen2, max_model_len=512) as engine:
        space = " " * (512 * engine.tokenizer.bytes_per_token)
        short = SamplingParams(max_tokens=2)
        params = SelfRefineParams(k=1, candidate=short, refine=short, seed=1)
        assert engine.self_refine([f"{space}1+1{space}"], params)[0].error is None


def test_a_given_candidate_may_be_longer_than_the_context(qwen2: Path) -> None:
    """Only its summary is read; four contexts are the limit, as text and as ids."""
    with Engine.from_pretrained(qwen2, max_model_len=512) as engine:
        short = SamplingParams(max_tokens=2)
        params = SelfRefineParams(refine=short, seed=1, summary_tokens=8)
        long = "1" * (4 * 512)
        ids = engine.tokenizer.encode_text(long)
        assert len(ids) == 4 * 512
        for given in (long, ids):
            (result,) = engine.self_refine(["1+1"], params, candidates=[[given, "2"]])
            assert result.error is None
            assert result.candidates[0].token_ids == ids
        for given in (long + "1", [*ids, 5]):
            error = refused(engine.self_refine, ["1+1"], params, candidates=[[given]])
            assert (error.field, "2049 tokens, at most 2048" in str(error)) == ("candidates", True)
