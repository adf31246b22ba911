"""Streamed text equals the final text; stop strings are found wherever tokens cut them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.text.detokenizer import Detokenizer
from gsr_engine.text.stopping import StopMatcher

VOCAB = 300
prove = settings(deadline=None, derandomize=True, max_examples=150)
CORPUS = [
    "the answer is 42\n\nso the answer",
    "你好，世界。你好",
    "naïve café 😀😀 €uro",
    "aXbXab ab",
]
TEXTS = st.text(alphabet="abX \n你好é€😀", max_size=30)


def wrapped(raw: RawTokenizer) -> Tokenizer:
    return Tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>"), frozenset({0})
    )


@cache
def raw_byte_level() -> RawTokenizer:
    """Byte-level BPE whose merges cut characters in two."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        CORPUS * 3,
        trainers.BpeTrainer(
            vocab_size=VOCAB,
            initial_alphabet=alphabet,
            special_tokens=["<end>"],
            show_progress=False,
        ),
    )
    return raw


@cache
def byte_level() -> Tokenizer:
    return wrapped(raw_byte_level())


@cache
def byte_fallback() -> Tokenizer:
    """A vocabulary like Llama 2's: words begin with a mark, other text is one token per byte."""
    vocab = {"<end>": 0, "<unk>": 1, "▁": 2, "a": 3, "b": 4, "X": 5, "▁a": 6, "\n": 7}
    vocab |= {f"<0x{byte:02X}>": 8 + byte for byte in range(256)}
    raw = RawTokenizer(models.BPE(vocab, [("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return wrapped(raw)


IDS = st.lists(st.integers(0, VOCAB - 1), max_size=60)


@given(token_ids=IDS, cuts=st.lists(st.integers(0, 60)))
@prove
def test_any_tokens_in_any_pieces(token_ids: list[int], cuts: list[int]) -> None:
    detokenizer = Detokenizer(byte_level())
    whole = byte_level().decode(token_ids)
    text = ""
    bounds = [0, *sorted(cuts), len(token_ids)]
    for start, stop in pairwise(bounds):
        text += detokenizer.push(token_ids[start:stop])
        assert whole.startswith(text)
    assert text + detokenizer.flush() == whole
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(text=TEXTS)
@prove
def test_valid_text_shows_no_half_characters(make: object, text: str) -> None:
    tokenizer: Tokenizer = make()  # type: ignore[operator]
    token_ids = tokenizer.encode_text(text)
    detokenizer = Detokenizer(tokenizer)
    pushed = [detokenizer.push([token]) for token in token_ids]
    assert "�" not in "".join(pushed)
    assert not detokenizer.flush()
    assert "".join(pushed) == tokenizer.decode(token_ids)


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@given(text=TEXTS, data=st.data())
@prove
def test_ids_without_text_stand_anywhere(
    make: Callable[[], Tokenizer], text: str, data: st.DataObject
) -> None:
    """Special tokens, and ids that are no token, in any number, also inside a character."""
    tokenizer = make()
    silent = [0, VOCAB + 7]
    token_ids = []
    for token in tokenizer.encode_text(text):
        gap = data.draw(st.integers(0, 20))
        token_ids += [token, *(data.draw(st.sampled_from(silent)) for _ in range(gap))]
    assert not any(map(tokenizer.spells, silent))
    whole = tokenizer.decode(token_ids)
    assert "\ufffd" not in whole
    detokenizer = Detokenizer(tokenizer)
    pushed = [detokenizer.push([token]) for token in token_ids]
    assert "\ufffd" not in "".join(pushed)
    assert "".join(pushed) + detokenizer.flush() == whole


@pytest.mark.parametrize("byte", [0xFF, 0x80, 0xE2])
def test_a_token_costs_the_same_however_long_the_stream(
    byte: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, longest = byte_level(), 0
    decode = Tokenizer.decode

    def counting(self: Tokenizer, token_ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(token_ids))
        return decode(self, token_ids)

    token = {bytes_of(t): t for t in range(VOCAB)}[bytes([byte])]
    for stream in ([0] * 300, [token] * 300, tokenizer.encode_text("a €" * 100)):
        whole = tokenizer.decode(stream)
        with monkeypatch.context() as patch:
            patch.setattr(Tokenizer, "decode", counting)
            detokenizer = Detokenizer(tokenizer)
            assert detokenizer.push(stream) + detokenizer.flush() == whole
    assert longest <= 20


@cache
def _bytes() -> dict[str, int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def bytes_of(token: int) -> bytes:
    """The bytes of a token of the byte-level vocabulary."""
    piece = raw_byte_level().id_to_token(token)
    return b"" if token == 0 else bytes(_bytes()[char] for char in piece)


@st.composite
def cut_text(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A text, cut into tokens anywhere, also inside characters."""
    data, tokens = draw(TEXTS).encode(), []
    by_bytes = {bytes_of(token): token for token in range(1, VOCAB)}
    place = 0
    while place < len(data):
        sizes = [n for n in range(1, 12) if data[place : place + n] in by_bytes]
        size = draw(st.sampled_from([n for n in sizes if place + n <= len(data)]))
        tokens.append(by_bytes[data[place : place + size]])
        place += size
    return data.decode(), tokens


def before_the_stop(text: str, strings: list[str], least: int = 0) -> tuple[str | None, str | None]:
    """The definition, character by character: the text before the stop string, and the string.

    What is complete before `least` does not count.
    """
    for stop in range(least + 1, len(text) + 1):
        ended = [string for string in strings if text[:stop].endswith(string)]
        if ended:
            longest = max(ended, key=len)
            return text[: stop - len(longest)], longest
    return None, None


STRINGS = st.lists(
    st.one_of(st.sampled_from(["ab", "X", "\n\n", "你好", "好", "€", "a b", "😀😀"]), TEXTS).filter(
        bool
    ),
    min_size=1,
    max_size=4,
)


@given(cut=cut_text(), strings=STRINGS, least=st.integers(0, 8))
@prove
def test_stop_strings_are_a_matter_of_the_text_alone(
    cut: tuple[str, list[int]], strings: list[str], least: int
) -> None:
    text, token_ids = cut
    watch = StopMatcher(byte_level(), tuple(strings))
    drawn = 0
    for drawn, token in enumerate(token_ids, start=1):
        if watch.push(token, armed=drawn >= least):
            break
    # Whole characters of the tokens that came too early.
    early = b"".join(map(bytes_of, token_ids[: max(0, least - 1)])).decode(errors="ignore")
    expected, found = before_the_stop(text, strings, len(early))
    assert (watch.text, watch.found) == (expected, found)
    if expected is None:
        assert drawn == len(token_ids)
        return
    kept = watch.content_length
    content = b"".join(map(bytes_of, token_ids[:kept]))
    assert kept < drawn
    assert expected.encode().startswith(content)
    # One more token would contain a part of the stop string, or end inside a character.
    rest = token_ids[kept:drawn]
    reached = [len(content) + len(b"".join(map(bytes_of, rest[: i + 1]))) for i in range(len(rest))]
    begin = len(expected.encode())
    for size in reached:
        whole = text.encode()[:size].decode(errors="ignore")
        assert size > begin or len(whole.encode()) < size


def test_a_token_of_both_is_no_content() -> None:
    tokenizer = byte_level()
    watch = StopMatcher(tokenizer, ("X",))
    token_ids = tokenizer.encode_text("aXb")
    pieces = tokenizer.pieces(token_ids)
    found = [watch.push(token, armed=True) for token in token_ids]
    assert any("X" in piece and len(piece) > 1 for piece in pieces), pieces
    assert True in found
    assert watch.text == "a"
    assert tokenizer.decode(token_ids[: watch.content_length]) in ("", "a")
    assert not any("X" in piece for piece in pieces[: watch.content_length])
