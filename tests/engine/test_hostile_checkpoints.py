"""A broken or hostile checkpoint folder ends in a typed error that names the file."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsr_engine import CheckpointError, InvalidRequest
from gsr_engine.checkpoint.files import MOST_JSON_BYTES, find_checkpoint
from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.model.weights import load_decoder
from tests.helpers.hostile import DEEP, HUGE, assert_short

pytestmark = pytest.mark.slow


@pytest.fixture
def broken(qwen2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen2, tmp_path / "broken"))


def load(folder: Path) -> None:
    """Everything that reads what the tests below break; the tokenizer is another matter."""
    config = ModelConfig.from_folder(folder)
    GsrConfig.from_folder(folder)
    load_decoder(folder, config, torch.float32)


@pytest.mark.parametrize("name", ["config.json", "gsr.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEEP, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "utf-8"),
        ("[1, 2]", r"must hold a JSON object, got \[1, 2\]"),
        (json.dumps(HUGE), "must hold a JSON object, got 'xxx"),
        ('{"a": NaN}', "'NaN' is no finite number"),
        ('{"a": -Infinity}', "'-Infinity' is no finite number"),
        ('{"a": 1e999}', "'1e999' is no finite number"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ('{"a": "' + "x" * MOST_JSON_BYTES + '"}', f"larger than {MOST_JSON_BYTES} bytes"),
        ("", "cannot be read as JSON"),
    ],
    ids=range(11),
)
def test_files_that_are_no_json_object(
    name: str, content: str | bytes, message: str, broken: Path
) -> None:
    (broken / name).write_bytes(content.encode() if isinstance(content, str) else content)
    if "index" in name:  # it is read where there is no single file
        (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        load(broken)
    assert name in str(caught.value)
    assert_short(caught.value, broken)


def test_what_is_no_ordinary_file_is_not_opened(broken: Path) -> None:
    for name, message in (
        ("model.safetensors", r"lacks model\.safetensors"),
        ("config.json", r"config\.json .* no ordinary file"),
    ):
        (broken / name).unlink()
        os.mkfifo(broken / name)  # reading it would wait for ever
        with pytest.raises(CheckpointError, match=message):
            load(broken)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ([1], r"weight_map must be an object, got \[1\]"),
        ({"a": 5}, "weight_map must give names of files in its folder, got 5"),
        ({"a": ["model.safetensors"]}, "got \\['model.safetensors'\\]"),
        ({"a": "../outside.safetensors"}, r"got '\.\./outside\.safetensors'"),
        ({"a": "/etc/passwd"}, "got '/etc/passwd'"),
        ({"a": "..\\outside.safetensors"}, "weight_map must give names"),
        ({"a": "model\0.safetensors"}, "weight_map must give names"),
        ({"a": ".."}, "weight_map must give names"),
        ({"a": ""}, "weight_map must give names"),
        ({"a": HUGE}, "weight_map must give names"),
        ({"a": "link.safetensors"}, "'link.safetensors' is a link that leads out of it"),
        ({str(i): f"part-{i}.safetensors" for i in range(1000)}, "lacks part-0.safetensors"),
        ({}, "lacks weights"),
        (None, "lacks weights"),
    ],
    ids=range(14),
)
def test_an_index_names_files_of_its_folder(weight_map: Any, message: str, broken: Path) -> None:
    shutil.move(broken / "model.safetensors", broken.parent / "outside.safetensors")
    (broken / "link.safetensors").symlink_to(broken.parent / "outside.safetensors")
    index = broken / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(broken)
    assert_short(caught.value, broken)


def safetensors_of(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


EMBEDDING = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff" * 64, "cannot be read"),
        (safetensors_of({}, size=2**62), "cannot be read"),
        (safetensors_of({}, size=50_000_000), "cannot be read"),
        (safetensors_of(b"[" * 100_000), "cannot be read"),
        (safetensors_of({"a": 1}), "cannot be read"),
        (safetensors_of({}), f"has no tensor {EMBEDDING}"),
        (
            safetensors_of(
                {EMBEDDING: {"dtype": "F32", "shape": [4], "data_offsets": [0, 10**15]}}
            ),
            "cannot be read",
        ),
        (
            safetensors_of(
                {EMBEDDING: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}},
                bytes(4),
            ),
            "cannot be read",
        ),
        (
            safetensors_of(
                {EMBEDDING: {"dtype": "F32", "shape": [0] * 5000, "data_offsets": [0, 0]}}
            ),
            rf"{EMBEDDING} has shape \(0, 0, 0",
        ),
        (
            safetensors_of({EMBEDDING: {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]}}),
            f"{EMBEDDING} is stored as C64, not a float",
        ),
    ],
    ids=range(11),
)
def test_broken_safetensors(content: bytes, message: str, broken: Path) -> None:
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(broken)
    assert_short(caught.value, broken)


def test_a_tensor_of_the_wrong_shape_is_not_read(broken: Path) -> None:
    file = broken / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.down_proj.weight"
    save_file(tensors | {name: torch.zeros(7, 80)}, file)
    with pytest.raises(CheckpointError, match=rf"{name} has shape \(7, 80\), .* \(48, 80\)"):
        load(broken)
    save_file(tensors | {name: tensors[name].double()}, file)
    with pytest.raises(CheckpointError, match=f"{name} is stored as F64"):
        load(broken)
    save_file(tensors | {name: tensors[name].half()}, file)
    load(broken)


@pytest.mark.parametrize("name", [None, 5, b"folder", ["folder"]])
def test_what_is_no_path(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="path_or_id: must be a path or a text"):
        find_checkpoint(name)
    with pytest.raises(InvalidRequest, match="revision: must be a text, got 5"):
        find_checkpoint("some-one/some-model", revision=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [HUGE, "/" + HUGE, "a\0b", "/a\0b", "a/" * 5000])
def test_paths_that_no_file_system_has(name: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(name)
    assert_short(caught.value, Path("/nowhere"))


def test_an_index_through_links_inside_and_in_the_cache_of_the_hub(
    qwen2: Path, tmp_path: Path
) -> None:
    """The hub's snapshots are links to blobs beside them; a folder's own links stay inside."""
    snapshot, blobs = (
        tmp_path / "models--a--b" / "snapshots" / "abc",
        tmp_path / "models--a--b/blobs",
    )
    names = load_file(qwen2 / "model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "part.safetensors")}
    for folder, target in ((snapshot, blobs / "123"), (tmp_path / "own", tmp_path / "own/x.bin")):
        folder.mkdir(parents=True)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(qwen2 / "config.json", folder)
        shutil.copy(qwen2 / "model.safetensors", target)
        (folder / "part.safetensors").symlink_to(target)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        load(folder)
