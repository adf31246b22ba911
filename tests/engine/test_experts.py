"""A mixture of experts equals transformers', and a row's bits are its own affair."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from gsr_engine.model import experts as module
from gsr_engine.model.experts import Experts

FP32, BF16 = torch.float32, torch.bfloat16
CLOSE = {FP32: {"atol": 1e-5, "rtol": 1e-5}, BF16: {"atol": 0.02, "rtol": 0.02}}
few_cases = settings(deadline=None, derandomize=True, max_examples=25)


def blocks(
    experts: int, top_k: int, hidden: int, width: int, normalise: bool, dtype: torch.dtype = FP32
) -> tuple[Experts, Qwen3MoeSparseMoeBlock]:
    """Ours and theirs, with the same random weights."""
    theirs = Qwen3MoeSparseMoeBlock(
        Qwen3MoeConfig(
            hidden_size=hidden,
            moe_intermediate_size=width,
            num_experts=experts,
            num_experts_per_tok=top_k,
            norm_topk_prob=normalise,
        )
    )
    generator = torch.Generator().manual_seed(experts * hidden + width)
    for weight in theirs.parameters():
        scale = weight.shape[-1] ** -0.5
        weight.data = torch.randn(weight.shape, generator=generator) * scale
    theirs = theirs.to(dtype).requires_grad_(False)
    return ours(theirs, top_k, normalise), theirs


def ours(theirs: Qwen3MoeSparseMoeBlock, top_k: int, normalise: bool) -> Experts:
    return Experts.of(
        theirs.gate.weight,
        iter(theirs.experts.gate_up_proj),
        iter(theirs.experts.down_proj),
        top_k=top_k,
        normalise=normalise,
    )


@few_cases
@given(
    rows=st.integers(0, 70),
    experts=st.integers(1, 12),
    top_k=st.integers(1, 12),
    hidden=st.integers(1, 60),
    width=st.integers(1, 40),
    normalise=st.booleans(),
    dtype=st.sampled_from([FP32, BF16]),
    collapsed=st.booleans(),
)
def test_any_shape_is_transformers_and_a_row_alone_has_the_same_bits(
    rows: int,
    experts: int,
    top_k: int,
    hidden: int,
    width: int,
    normalise: bool,
    dtype: torch.dtype,
    collapsed: bool,
) -> None:
    mine, theirs = blocks(experts, min(top_k, experts), hidden, width, normalise, dtype)
    x = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(rows)).to(dtype)
    if collapsed:  # all rows go to the same experts, the others have none
        x = x[:1].expand(rows, hidden)
    found = mine(x)
    torch.testing.assert_close(found, theirs(x[None])[0], **CLOSE[dtype])
    for row in range(0, rows, 9):
        assert torch.equal(mine(x[row : row + 1]), found[row : row + 1])
        assert torch.equal(mine(x[row : row + 4].flip(0)).flip(0), found[row : row + 4])


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_many_rows_of_one_expert_and_few_of_others(dtype: torch.dtype) -> None:
    """More rows than the kernel packs at once, and than share weights."""
    mine, theirs = blocks(7, 2, 24, 20, True, dtype)
    x = torch.randn(700, 24, generator=torch.Generator().manual_seed(5)).to(dtype)
    x[90:] = x[90]
    found = mine(x)
    torch.testing.assert_close(found, theirs(x[None])[0], **CLOSE[dtype])
    assert torch.equal(mine(x[85:91]), found[85:91])
    assert torch.equal(found[91:], found[90].expand(609, 24))


def test_a_row_with_a_nan_is_its_own_affair() -> None:
    mine, _ = blocks(6, 2, 24, 20, True)
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    expected = mine(x)
    x[4, 3] = float("nan")
    found = mine(x)
    assert found[4].isnan().all()
    others = torch.arange(9) != 4
    assert torch.equal(found[others], expected[others])


def test_without_kernels_plain_torch_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = blocks(6, 3, 24, 20, True)
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(module, "has_cpu_kernels", lambda _: False)
    plain = ours(theirs, 3, True)
    assert plain.gate_up.shape == (6, 40, 24)
    expected = mine(x)
    torch.testing.assert_close(plain(x), expected, **CLOSE[FP32])
    half = ours(theirs.half(), 3, True)
    torch.testing.assert_close(half(x.half()).float(), expected, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("has_kernels", [False, True])
def test_one_weight_at_a_time_is_held_beside_the_result(
    has_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_cpu_kernels", lambda _: has_kernels)
    alive: list[weakref.ref[torch.Tensor]] = []

    def read(*shape: int) -> torch.Tensor:
        assert all(one() is None for one in alive)
        weight = torch.randn(shape)
        alive.append(weakref.ref(weight))
        return weight

    made = Experts.of(
        torch.randn(5, 8),
        (read(12, 8) for _ in range(5)),
        (read(8, 6) for _ in range(5)),
        top_k=2,
        normalise=True,
    )
    assert made(torch.randn(3, 8)).shape == (3, 8)
    assert len(alive) == 10


def test_weights_that_disagree_are_refused() -> None:
    router, gate_up, down = torch.randn(3, 8), torch.randn(3, 12, 8), torch.randn(3, 8, 6)

    def made(first: object, second: object) -> Experts:
        return Experts.of(router, first, second, top_k=2, normalise=True)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="2 weights for 3 experts"):
        made(gate_up[:2], down)
    with pytest.raises(ValueError, match=r"weight 4 of 3 experts is \(8, 6\)"):
        made(gate_up, [*down, down[0]])
    with pytest.raises(ValueError, match=r"weight 2 of 3 experts is \(12, 7\)"):
        made([gate_up[0], gate_up[1, :, :7], gate_up[2]], down)
