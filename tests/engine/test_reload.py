"""Other weights for an engine that runs: from a checkpoint, or from memory.

The tensors of a GPU are overwritten in place; here those of the CPU play them.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gsr_engine import CheckpointError, Engine, EngineClosed, InvalidRequest, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensor_names import HEAD, tensor_shapes
from gsr_engine.checkpoint.tensors import ModelTensors, StoredTensors, open_tensors
from gsr_engine.execution.memory_need import MemoryNeed
from gsr_engine.model.weights import decoder_of, overwrite, weight_bytes
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.playing import GPU, GpuDecoder, gpu_engine, lay_out_as_on_a_gpu

CPU = torch.device("cpu")
FAMILIES = ["qwen2", "qwen3", "llama3", "qwen3moe", "phi3-partial", "gemma3"]
PARAMS = SamplingParams(n=2, max_tokens=12, seed=5, ignore_eos=True)
PROMPTS = ["12*3", "what else", "u" * 40]
Named = list[tuple[str, torch.Tensor]]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a second checkpoint of a family."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"reload-{family}"
        return folder if folder.exists() else make_checkpoint(folder, family, seed=1)

    return make


def tokens(engine: Engine) -> list[list[int]]:
    results = engine.generate(PROMPTS, PARAMS)
    assert all(result.error is None for result in results)
    return [one.token_ids for result in results for one in result.completions]


def fresh(folder: Path) -> list[list[int]]:
    with Engine.from_pretrained(folder, device="cpu", dtype="float32") as engine:
        return tokens(engine)


def weights_of(folder: Path) -> Named:
    pairs = [pair for file in folder.glob("*.safetensors") for pair in load_file(file).items()]
    random.Random(1).shuffle(pairs)
    return pairs


def tensors_of(part: object) -> Iterator[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        yield part.to_dense() if part.is_mkldnn else part
    elif isinstance(part, list):
        for one in part:
            yield from tensors_of(one)
    elif is_dataclass(part) and not isinstance(part, ModelConfig):
        for one in fields(part):
            yield from tensors_of(getattr(part, one.name))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "fp8")]
)
def test_every_tensor_is_overwritten_in_the_layout_of_the_device(
    family: str,
    dtype: str,
    quantization: Any,
    checkpoints: dict[str, Path],
    other: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although the host, which reads them, would pack all of these weights for itself."""
    monkeypatch.setattr("gsr_engine.model.linear.LEAST_WEIGHTS", 0)
    torch_dtype = getattr(torch, dtype)
    made = []
    for folder in (checkpoints[family], other(family)):
        with monkeypatch.context() as making:
            lay_out_as_on_a_gpu(making)
            with open_tensors(folder, ModelConfig.from_folder(folder)) as stored:
                made.append(decoder_of(stored, torch_dtype, quantization=quantization))
    target, expected = GpuDecoder.of(made[0]), made[1]
    places = [one.data_ptr() for one in tensors_of(target)]
    with open_tensors(other(family), ModelConfig.from_folder(other(family))) as stored:
        stored.check()
        assert overwrite(stored, target) is target
    assert [one.data_ptr() for one in tensors_of(target)] == places
    for mine, theirs in zip(tensors_of(target), tensors_of(expected), strict=True):
        assert torch.equal(mine.float(), theirs.float())


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_whole(family: str, checkpoints: dict[str, Path]) -> None:
    model = ModelConfig.from_folder(checkpoints[family])
    parameters = sum(file.stat().st_size for file in checkpoints[family].glob("*.safetensors"))
    assert weight_bytes(model, torch.float32) == pytest.approx(parameters, rel=0.05)


def test_the_host_holds_one_layer_at_a_time(qwen2: Path) -> None:
    class Counted:
        def __init__(self, stored: ModelTensors) -> None:
            self.config, self._stored = stored.config, stored
            self.most = self._held = 0

        def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
            tensor = self._stored.read(name, shape).clone()
            self._held += tensor.nbytes
            self.most = max(self.most, self._held)
            weakref.finalize(tensor, self._dropped, tensor.nbytes)
            return tensor

        def _dropped(self, size: int) -> None:
            self._held -= size

    model = ModelConfig.from_folder(qwen2)
    need = MemoryNeed.of_reload(model, torch.float32, GPU)
    with open_tensors(qwen2, model) as stored:
        counted: Any = Counted(stored)
        with pytest.MonkeyPatch.context() as patch:
            lay_out_as_on_a_gpu(patch)
            overwrite(counted, GpuDecoder.of(decoder_of(stored, torch.float32)))
    assert counted.most <= need.weights + need.loading
    assert need.together < MemoryNeed.of_reload(model, torch.float32, CPU).together


Source = Callable[[Engine, Path], None]


def from_folder(engine: Engine, folder: Path) -> None:
    engine.reload_weights(folder)


def from_memory(engine: Engine, folder: Path) -> None:
    engine.load_weights(pair for pair in weights_of(folder))


@pytest.mark.parametrize("source", [from_folder, from_memory])
@pytest.mark.parametrize("family", ["qwen2", "qwen3moe", "phi3"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_tokens_are_those_of_a_fresh_engine(
    device: str,
    family: str,
    source: Source,
    checkpoints: dict[str, Path],
    other: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device == "gpu":
        engine = gpu_engine(checkpoints[family], monkeypatch)
    else:
        engine = Engine.from_pretrained(checkpoints[family], device="cpu", dtype="float32")
    with engine:
        before = tokens(engine)
        source(engine, other(family))
        assert tokens(engine) == fresh(other(family)) != before
        source(engine, checkpoints[family])
        assert tokens(engine) == before


def test_running_requests_keep_what_they_drew(
    checkpoints: dict[str, Path],
    other: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with gpu_engine(checkpoints["qwen3"], monkeypatch) as engine:
        (before,) = engine.generate(["12*3"], PARAMS)
        request = engine.new_generate("12*3", PARAMS)
        engine.submit(request)
        for _ in range(5):
            engine.step()
        engine.load_weights(weights_of(other("qwen3")))
        while not request.finished:
            engine.step()
    after = request.result
    for mine, old in zip(after.completions, before.completions, strict=True):
        assert len(mine.token_ids) == 12
        assert mine.token_ids[:4] == old.token_ids[:4]
        assert mine.token_ids != old.token_ids


Spoil = Callable[[Named], object]


def _cast(weights: Named) -> Named:
    return [*weights[:-1], (weights[-1][0], weights[-1][1].to(torch.int64))]


def _cut(weights: Named) -> Named:
    return [*weights[:-1], (weights[-1][0], weights[-1][1][:-1])]


WRONG: dict[str, tuple[Spoil, str]] = {
    "missing": (lambda w: w[:-1], "weights has no tensor "),
    "unknown": (lambda w: [*w, ("model.layers.0.bias", w[0][1])], "has not: model.layers.0.bias"),
    "twice": (lambda w: [*w, w[0]], "is given twice"),
    "twice by another name": (
        lambda w: [*w, (w[0][0].removeprefix("model."), w[0][1])],
        "is given twice",
    ),
    "shape": (_cut, "has shape .* config.json implies"),
    "dtype": (_cast, "stored as torch.int64, not a float"),
    "no pair": (lambda w: [*w, w[0][0]], "must be pairs of a name and a tensor, got 'model"),
    "no tensor": (lambda w: [*w, ("x", [1.0])], "must be pairs of a name and a tensor"),
    "meta": (lambda w: [*w[:-1], (w[-1][0], w[-1][1].to("meta"))], "no dense tensor"),
    "another head": (
        lambda w: [*w, (HEAD, torch.zeros_like(dict(w)["model.embed_tokens.weight"]))],
        "lm_head.weight differs from the embedding",
    ),
}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_wrong_weights_are_refused_by_name_and_change_nothing(
    device: str, qwen2: Path, other: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "gpu":
        engine = gpu_engine(qwen2, monkeypatch)
    else:
        engine = Engine.from_pretrained(qwen2, device="cpu", dtype="float32")
    with engine:
        before = tokens(engine)
        for spoil, message in WRONG.values():
            with pytest.raises((CheckpointError, InvalidRequest), match=message):
                engine.load_weights(iter(spoil(weights_of(other("qwen2")))))  # type: ignore
        with pytest.raises(InvalidRequest, match="must be pairs of a name and a tensor, got None"):
            engine.load_weights(None)  # type: ignore
        with pytest.raises(ZeroDivisionError):
            engine.load_weights((name, tensor / (1 // 0)) for name, tensor in weights_of(qwen2))
        with pytest.raises(CheckpointError, match="another model"):
            engine.reload_weights(other("qwen3"))
        assert tokens(engine) == before


def test_a_checkpoint_is_checked_before_a_weight_is_overwritten(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(tmp_path / "cut", "qwen2", seed=3)
    file = folder / "model.safetensors"
    pairs = load_file(file)
    *_, last = dict(tensor_shapes(ModelConfig.from_folder(folder)))
    del pairs[last]
    save_file(pairs, file, metadata={"format": "pt"})
    with gpu_engine(qwen2, monkeypatch) as engine:
        before = tokens(engine)
        with pytest.raises(CheckpointError, match=f"has no tensor {last}"):
            engine.reload_weights(folder)
        assert engine.ended is None
        assert tokens(engine) == before


def test_the_engine_keeps_none_of_the_tensors(qwen2: Path, other: Callable[[str], Path]) -> None:
    with Engine.from_pretrained(qwen2, device="cpu", dtype="float32") as engine:
        given = weights_of(other("qwen2"))
        engine.load_weights(given)
        before = tokens(engine)
        for _, tensor in given:
            tensor.zero_()
        assert tokens(engine) == before


def test_a_tied_head_may_be_given_as_well_or_alone(
    qwen2: Path, other: Callable[[str], Path]
) -> None:
    expected, given = fresh(other("qwen2")), weights_of(other("qwen2"))
    embedding = dict(given)["model.embed_tokens.weight"]
    alone = [(HEAD if tensor is embedding else name, tensor) for name, tensor in given]
    for named in ([*given, (HEAD, embedding)], alone):
        with Engine.from_pretrained(qwen2, device="cpu", dtype="float32") as engine:
            engine.load_weights(named)
            assert tokens(engine) == expected


def break_the_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    read, count = StoredTensors.read, iter(range(1000))

    def broken(self: StoredTensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if next(count) >= after:
            raise CheckpointError(f"tensor {name} cannot be read")
        return read(self, name, shape)

    monkeypatch.setattr(StoredTensors, "read", broken)


def test_mixed_weights_end_the_engine(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU; everybody is told once, and later calls name the cause."""
    engine = gpu_engine(qwen2, monkeypatch)
    request = engine.new_generate("12*3", PARAMS)
    engine.submit(request)
    engine.step()
    break_the_disk(monkeypatch, after=7)
    with pytest.raises(EngineClosed, match=r"the engine ended, .*tensor .* cannot be read") as told:
        engine.reload_weights(qwen2)
    assert isinstance(told.value.__cause__, CheckpointError)
    assert engine.has_work
    assert engine.step() == [request]
    assert "cannot be read" in request.result.error
    assert not engine.has_work
    for call in (
        engine.step,
        lambda: engine.generate(["1"]),
        lambda: engine.submit(engine.new_generate("1", PARAMS)),
    ):
        with pytest.raises(EngineClosed, match="cannot be read") as refused:
            call()
        assert isinstance(refused.value.__cause__, CheckpointError)
    engine.check()
    assert engine.stats()["requests_running"] == 0
    engine.close()


def test_on_a_cpu_the_old_weights_stay(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.from_pretrained(qwen2, device="cpu", dtype="float32") as engine:
        before = tokens(engine)
        with monkeypatch.context() as disk:
            break_the_disk(disk, after=7)
            with pytest.raises(CheckpointError, match="cannot be read"):
                engine.reload_weights(qwen2)
        assert engine.ended is None
        assert tokens(engine) == before
