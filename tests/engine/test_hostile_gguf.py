"""A broken or hostile GGUF file ends in a typed error that names the file, and soon."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsr_engine import CheckpointError
from gsr_engine.checkpoint.gguf.header import read_header
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tokenizer import Tokenizer
from gsr_engine.model.weights import load_decoder
from tests.helpers.gguf_files import tiny_model, write_gguf
from tests.helpers.hostile import HUGE, VALUES, assert_short

pytestmark = pytest.mark.slow

UINT8, UINT32, TEXT, ARRAY, UINT64 = 0, 4, 8, 9, 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    return write_gguf(path, tiny_model("qwen2"), "Q4_0").read_bytes()


def load(path: Path) -> None:
    """Everything that reads the file."""
    config = ModelConfig.from_folder(path)
    Tokenizer.from_folder(path)
    load_decoder(path, config, torch.float32)


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def text(value: str | bytes, length: int | None = None) -> bytes:
    own = value.encode() if isinstance(value, str) else value
    return number(len(own) if length is None else length) + own


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + number(kind, 4) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(map(number, shape))
    return text(name) + number(len(shape), 4) + sizes + number(kind, 4) + number(offset)


def file_of(*parts: bytes, fields: int = 0, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + number(version, 4) + number(tensors) + number(fields) + b"".join(parts)


END = "ends in the middle of its header"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"GG", END),
        (b"GGML" + bytes(64), "is no GGUF file"),
        (b"\x80\x02" + b"x" * 64, "is no GGUF file"),
        (b"GGUF" + number(3, 4), END),
        (file_of(version=1), "GGUF version 1 is not supported"),
        (file_of(version=4), "GGUF version 4 is not supported"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "in big-endian order"),
        (file_of(fields=2**63), "has 9223372036854775808 metadata fields"),
        (file_of(tensors=2**63), "has 9223372036854775808 tensors"),
        (file_of(fields=60_000), END),
        (file_of(tensors=60_000), END),
        (file_of(text("a", 2**63), fields=1), END),
        (file_of(text("a", 2**64 - 1), fields=1), END),
        (file_of(field("a", TEXT, text("b", 2**62)), fields=1), END),
        (file_of(field("a", TEXT, text(b"\xff\xfe")), fields=1), "no UTF-8"),
        (file_of(field("a", 13, b""), fields=1), "unknown type 13"),
        (file_of(field("a", 2**32 - 1, b""), fields=1), "unknown type 4294967295"),
        (file_of(field("a", ARRAY, number(UINT8, 4) + number(2**62)), fields=1), "more than 4194"),
        (file_of(field("a", ARRAY, number(UINT64, 4) + number(2**22)), fields=1), END),
        (file_of(field("a", ARRAY, number(TEXT, 4) + number(2**62)), fields=1), "more than 4194"),
        (file_of(field("a", ARRAY, number(TEXT, 4) + number(2**22)), fields=1), END),
        (file_of(field("a", ARRAY, number(ARRAY, 4) + number(1)), fields=1), "unknown type 9"),
        (file_of(field("a", ARRAY, number(99, 4) + number(0)), fields=1), "unknown type 99"),
        (file_of(*[field("a", UINT8, b"\1")] * 2, fields=2), "'a' stands there twice"),
        (file_of(field(HUGE, 99, b""), fields=1), "unknown type 99"),
        (file_of(*[field(HUGE, UINT8, b"\1")] * 2, fields=2), "stands there twice"),
        (
            file_of(field("general.alignment", UINT32, number(0, 4)), fields=1),
            "general.alignment must be an integer from 1",
        ),
        (
            file_of(field("general.alignment", TEXT, text(HUGE)), fields=1),
            "general.alignment must be an integer",
        ),
        (file_of(tensor("t", (2,) * 9), tensors=1), "has 9 dimensions of tensor 't'"),
        (file_of(text("t") + number(2**31, 4), tensors=1), "has 2147483648 dimensions"),
        (file_of(tensor("t", (4,), 999), tensors=1), "tensor 't' has the unknown type 999"),
        (file_of(tensor("t", (2**40, 2**40)), tensors=1), "tensor 't' reaches beyond its end"),
        (file_of(tensor("t", (4,), 0, 2**62), tensors=1), "tensor 't' reaches beyond its end"),
        (file_of(tensor("t", ()), tensors=1), r"tensor 't' of type F32 has shape \(\)"),
        (file_of(tensor("t", (0, 4)), tensors=1), r"has shape \(4, 0\)"),
        (file_of(tensor("t", (33,), 2), tensors=1), r"of type Q4_0 has shape \(33,\)"),
        (file_of(*[tensor("t", (4,))] * 2, bytes(64), tensors=2), "'t' stands there twice"),
        (file_of(tensor(HUGE, (4,)), tensors=1), "reaches beyond its end"),
        (file_of(), "lacks 'general.architecture'"),
        (
            file_of(field("general.architecture", UINT8, b"\1"), fields=1),
            "general.architecture must be a text, got 1",
        ),
        (
            file_of(field("general.architecture", TEXT, text(HUGE)), fields=1),
            "architecture 'xxx.* is not supported in a GGUF",
        ),
        (
            file_of(field("general.architecture", TEXT, text("llama")), fields=1),
            "has no tensor token_embd.weight",
        ),
    ],
    ids=range(43),
)
def test_broken_headers(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(path)
    assert "broken.gguf" in str(caught.value)
    assert_short(caught.value, path)


def test_a_header_is_not_read_without_end(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(file_of(text("a", 2**29), fields=1))
    os.truncate(path, 2**30)  # a hole, which takes no room on the disk
    with pytest.raises(CheckpointError, match="its header has more than 268435456 bytes"):
        read_header(path)


def test_what_is_no_ordinary_file_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"pipe\.gguf is no file"):
        read_header(path)


@settings(max_examples=40)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file(share: float, whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    data = len(whole) - 32  # what fills the last block may be missing
    path.write_bytes(whole[: int(share * data)])
    with pytest.raises(CheckpointError, match=r"cut\.gguf"):
        load(path)


@settings(max_examples=150)
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), data=st.data())
def test_a_changed_byte_loads_or_is_refused(
    where: float,
    value: int,
    data: st.DataObject,
    whole: bytes,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    header = whole.index(b"output_norm.weight") + 200
    at = int(where * data.draw(st.sampled_from([header, 600])))
    path = tmp_path_factory.mktemp("byte") / "byte.gguf"
    path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
    try:
        load(path)
    except CheckpointError as error:
        assert_short(error, path)


SIZES = (
    "block_count",
    "context_length",
    "embedding_length",
    "attention.head_count",
    "rope.freq_base",
)


@pytest.mark.parametrize("name", [*SIZES, "attention.key_length", "rope.scaling.factor"])
def test_any_value_of_a_field_loads_or_is_refused(name: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    for index, value in enumerate([*VALUES, math.nan, math.inf]):
        if not _is_writable(value):
            continue
        path = tmp_path / f"{index}.gguf"
        own = {f"llama__{name.replace('.', '__')}": value}
        try:
            load(write_gguf(path, model, **own))
        except CheckpointError as error:
            assert_short(error, path)


CHANGING = (
    *("attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"),
    *("attention.temperature_scale", "expert_count", "expert_used_count", "expert_gating_func"),
    *("expert_feed_forward_length", "rope.dimension_count", "rope.scaling.type"),
    *("rope.scaling.attn_factor", "rope.scaling.original_context_length"),
    *("rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"),
)


@pytest.mark.parametrize("kind", ["qwen3_moe", "phi3", "olmo3", "ministral3", "gemma3_text"])
def test_any_value_of_any_field_of_a_family_loads_or_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is changed behind the reader, which is faster than as many files."""
    path = write_gguf(tmp_path / "tiny.gguf", tiny_model(kind, pad_token_id=None, num_experts=4))
    header = read_header(path)
    prefix = header.fields.text("general.architecture") + "."
    names = {name for name in header.metadata if name.startswith(prefix)}
    values = [
        value for value in [*VALUES, math.nan, math.inf, [True, False]] if _is_writable(value)
    ]
    for name in names | {prefix + one for one in CHANGING}:
        for value in values:
            changed = replace(header, metadata={**header.metadata, name: value})
            reader = Mock(return_value=changed)
            monkeypatch.setattr("gsr_engine.checkpoint.gguf.config.read_header", reader)
            try:
                ModelConfig.from_folder(path)
            except CheckpointError as error:
                assert_short(error, path)


def _is_writable(value: Any) -> bool:
    """Whether GGUF has a type for it, and the writer takes it."""
    if isinstance(value, list):
        return value in ([1, 2], ["linear"], [True, False])
    if isinstance(value, int):
        return 0 <= value < 2**32
    return (isinstance(value, float) and not 1e38 < value < math.inf) or (
        isinstance(value, str) and value != ""
    )
