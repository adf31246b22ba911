"""The sharded, packed model against plain transformers: the same losses and the same gradients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from gsr_engine import CheckpointError
from gsr_engine.errors import UnsupportedModel
from tests.helpers.checkpoints import FAMILIES, make_checkpoint
from tests.helpers.tiny import make_examples, plain_losses, tiny_config
from tests.helpers.variants import change_config, make_variant
from train.objectives import OBJECTIVES, objective_index
from train.rows import Row
from train.trainer.attention import Documents, packed_attention
from train.trainer.batches import collate, pack
from train.trainer.model import Trainee, build_model, load_weights, read_model_config
from train.trainer.world import World, joined

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with joined() as one:
        yield one


def make_trainee(folder: Path, world: World, **settings: object) -> Trainee:
    config = tiny_config(folder, Path("data"), Path("out"), **settings)
    trainee = build_model(read_model_config(folder), config, world.mesh(0))
    load_weights(trainee, folder)
    return trainee


def packed_losses(
    trainee: Trainee, rows: Sequence[Row], max_tokens: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Mean losses, gradients of their sum, and the number of packs that they took."""
    counts = torch.zeros(len(OBJECTIVES))
    for row in rows:
        counts[objective_index(row.objective)] += row.num_targets
    packs = pack([len(row) for row in rows], max_tokens, 1)
    total = torch.zeros(len(OBJECTIVES))
    for places in packs:
        batch = collate([rows[place] for place in places], torch.device("cpu"))
        losses = trainee(batch) / counts.clamp_min(1)
        losses.sum().backward()
        total += losses.detach()
    named = trainee.hf.named_parameters()
    gradients = {name: p.grad.full_tensor() for name, p in named if p.grad is not None}
    trainee.zero_grad()
    return total, gradients, len(packs)


def assert_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-5, rtol=1e-4)


TRAINED = [family for family in FAMILIES if family != "qwen3moe"]


@pytest.mark.parametrize("family", TRAINED)
def test_losses_and_gradients_are_those_of_transformers(
    family: str, tmp_path: Path, world: World
) -> None:
    """Direct, linear and branched rows, packed; tied (qwen2) and untied heads."""
    wide = {"sliding_window": 1024} if FAMILIES[family].get("sliding_window") else {}
    folder = make_checkpoint(tmp_path / "c", family, config=wide)
    rows = [example.row for example in make_examples(folder, 2)]
    expected, gradients = plain_losses(folder, rows)
    losses, got, packs = packed_losses(make_trainee(folder, world), rows, 100_000)
    assert packs == 1
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    assert_close(got, gradients)


@pytest.mark.parametrize(
    "name",
    [
        *("tied, own head", "tied, head alone", "names of the base model", "yarn, ramp"),
        *("rope_scaling beside rope_parameters", "yarn, original length outside"),
        *("window that no layer uses", "window that the rows fit", "an index beside the file"),
    ],
)
def test_variants_are_those_of_transformers(
    name: str, checkpoints: dict[str, Path], tmp_path: Path, world: World
) -> None:
    """Losses and gradients of every kind of row, as for the families."""
    folder = make_variant(name, checkpoints, tmp_path / "variant")
    rows = [example.row for example in make_examples(folder, 1)]
    expected, gradients = plain_losses(folder, rows)
    losses, got, _ = packed_losses(make_trainee(folder, world), rows, 100_000)
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    assert_close(got, gradients)


def test_a_window_shorter_than_a_row_is_refused(
    checkpoints: dict[str, Path], tmp_path: Path, world: World
) -> None:
    """By the attention itself, should nobody have looked before."""
    folder = Path(shutil.copytree(checkpoints["mistral"], tmp_path / "m"))
    rows = [example.row for example in make_examples(folder, 1)]
    longest = max(map(len, rows))
    change_config(folder, sliding_window=longest - 1)
    with pytest.raises(UnsupportedModel, match=f"window of {longest - 1} tokens"):
        packed_losses(make_trainee(folder, world), rows, 100_000)


LONG = {"short_factor": [1.0] * 6, "long_factor": [2.0] * 6}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}, "Gemma2ForCausalLM"),
        ({"architectures": ["GraniteForCausalLM"]}, "GraniteForCausalLM"),
        (
            {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"},
            "the trainer does not reproduce Qwen3MoeForCausalLM",
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", **LONG}},
            "'longrope' is not supported in training",
        ),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantization_config is not supported in training",
        ),
        ({"attention_dropout": 0.1}, r"attention_dropout 0\.1 is not supported in training"),
        ({"rms_norm_eps": 1}, "Field 'rms_norm_eps' expected float"),
    ],
)
def test_what_is_not_reproduced_is_refused(
    changes: dict[str, object], named: str, qwen2: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(qwen2, tmp_path / "m"))
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=named):
        read_model_config(folder)


def test_attention_refuses_what_it_does_not_know() -> None:
    query = torch.zeros(1, 2, 3, 4)
    mask = Documents.of([3], np.zeros(3, np.int64), 3)
    for asked in ({"softcap": 50.0}, {"s_aux": query}, {"dropout": 0.1}):
        with pytest.raises(UnsupportedModel, match=f"attention with {next(iter(asked))}"):
            packed_attention(torch.nn.Identity(), query, query, query, None, packed=mask, **asked)


def test_neither_packs_nor_checkpointing_change_anything(qwen2: Path, world: World) -> None:
    """One pack, four, a row each; activations kept, computed again, or some of each."""
    rows = [example.row for example in make_examples(qwen2, 4)]
    longest = max(map(len, rows))
    quarter = sum(map(len, rows)) // 4 + longest // 2
    expected, gradients, _ = packed_losses(make_trainee(qwen2, world), rows, 100_000)
    counts = set()
    for mode in ("none", "selective", "full"):
        trainee = make_trainee(qwen2, world, checkpointing=mode)
        for max_tokens in (longest, quarter, 100_000):
            losses, got, packs = packed_losses(trainee, rows, max_tokens)
            torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
            assert_close(got, gradients)
            counts.add(packs)
    assert len(counts) == 3


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_compiled_layers_compute_the_same(
    mode: str, qwen2: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are really compiled, checkpointing and all; without a C++ compiler, for speed."""
    rows = [example.row for example in make_examples(qwen2, 2)]
    expected, gradients, _ = packed_losses(make_trainee(qwen2, world), rows, 100_000)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    trainee = make_trainee(qwen2, world, compile=True, checkpointing=mode)
    losses, got, _ = packed_losses(trainee, rows, 100_000)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]
    torch.testing.assert_close(losses, expected)
    assert_close(got, gradients)


def test_only_the_target_is_learnt(qwen2: Path) -> None:
    """The tokens that are predicted, and where from; an empty pack predicts nothing."""
    rows = [example.row for example in make_examples(qwen2, 3)]
    batch = collate(rows, torch.device("cpu"))
    wanted = [token for row in rows for token in list(row.token_ids)[row.target_start :]]
    assert batch.targets.tolist() == wanted
    assert batch.token_ids[0, batch.predicting + 1].tolist() == wanted
    kinds = [objective_index(row.objective) for row in rows for _ in range(row.num_targets)]
    assert batch.objectives.tolist() == kinds


def test_an_empty_pack_has_gradients_that_are_zero(qwen2: Path, world: World) -> None:
    """A rank without rows must take part in everything that the others do."""
    trainee = make_trainee(qwen2, world)
    losses = trainee(collate([], torch.device("cpu")))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    gradients = [p.grad.full_tensor() for p in trainee.parameters() if p.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)


def test_padding_changes_nothing(qwen2: Path, world: World) -> None:
    rows = [example.row for example in make_examples(qwen2, 2)]
    trainee = make_trainee(qwen2, world)
    with torch.no_grad():
        plain = trainee(collate(rows, torch.device("cpu")))
        padded = trainee(collate(rows, torch.device("cpu"), pad_to=1000))
    torch.testing.assert_close(padded, plain)


def test_bf16_products_stay_near(qwen2: Path, world: World) -> None:
    rows = [example.row for example in make_examples(qwen2, 2)]
    exact, _, _ = packed_losses(make_trainee(qwen2, world), rows, 100_000)
    trainee = make_trainee(qwen2, world, dtype="bfloat16")
    losses, gradients, _ = packed_losses(trainee, rows, 100_000)
    torch.testing.assert_close(losses, exact, atol=0, rtol=0.03)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())


def test_lora_begins_at_the_model_and_trains_adapters_only(qwen2: Path, world: World) -> None:
    pytest.importorskip("peft")
    rows = [example.row for example in make_examples(qwen2, 2)]
    expected, _, _ = packed_losses(make_trainee(qwen2, world), rows, 100_000)
    losses, gradients, _ = packed_losses(make_trainee(qwen2, world, lora=4), rows, 100_000)
    torch.testing.assert_close(losses, expected)
    assert gradients
    assert all(".lora_" in name for name in gradients)
    assert any(gradient.any() for gradient in gradients.values())


def test_weights_of_another_model_are_refused(checkpoints: dict[str, Path], world: World) -> None:
    config = tiny_config(checkpoints["qwen2"], Path("data"), Path("out"))
    trainee = build_model(read_model_config(checkpoints["qwen3"]), config, world.mesh(0))
    with pytest.raises(CheckpointError, match=r"has shape|has no tensor"):
        load_weights(trainee, checkpoints["qwen2"])
