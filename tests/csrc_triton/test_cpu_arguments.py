"""What CPU kernels do not take as it is: other dtypes, strides, head dims; absurd numbers."""

from __future__ import annotations

import pytest
import torch

import csrc_triton
from csrc_triton import Gate, PagedSpan, PrefillPlan, WorkList, cache_views, pack_weight, reference
from csrc_triton.checks import GATES

FP32, BF16 = torch.float32, torch.bfloat16
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def caches(head_dim: int, kind: torch.dtype = FP32) -> tuple[torch.Tensor, torch.Tensor]:
    memory = torch.randn(2, 4, 16 * 2 * head_dim, generator=torch.Generator().manual_seed(1))
    return cache_views(*memory.to(kind), 16, 2, head_dim)


def strided(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, not side by side."""
    return torch.stack((x, x + 99), dim=-1)[..., 0]


WORK = WorkList.from_spans([([0, 1, 2], PagedSpan([0, 1, 2], 1, 40))], 3, 16)
PLAN = PrefillPlan.from_segments([(PagedSpan([0, 1, 2], 37, 40), [])])


@pytest.mark.parametrize("head_dim", [32, 288, 512])
def test_attention_of_any_head_dim_with_positions_and_sinks_of_any_layout(head_dim: int) -> None:
    (k_cache, v_cache), q = caches(head_dim), torch.randn(3, 4, head_dim)
    positions, sinks = torch.tensor([39, 42, 47]), torch.randn(4)
    expected = reference.reduce_partials(
        *reference.decode_attention_partials(q, k_cache, v_cache, WORK, 0.1, 9, positions),
        WORK,
        FP32,
        sinks,
    )
    for places in (positions, positions.int(), strided(positions)):
        found = csrc_triton.decode_attention(
            q, k_cache, v_cache, WORK, 0.1, window=9, positions=places, sinks=strided(sinks)
        )
        torch.testing.assert_close(found, expected, **CLOSE)
    found = csrc_triton.prefill_attention(q, k_cache, v_cache, PLAN, 0.1, sinks=strided(sinks))
    expected = reference.prefill_attention(q, k_cache, v_cache, PLAN, 0.1, None, sinks)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_caches_of_two_dtypes() -> None:
    (k_cache, v_cache), q = caches(32), torch.randn(3, 4, 32)
    found = csrc_triton.prefill_attention(q, k_cache, v_cache.to(BF16), PLAN, 0.1)
    expected = reference.prefill_attention(q, k_cache, v_cache.to(BF16), PLAN, 0.1)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    "changed",
    [
        {"positions": torch.tensor([1, 5, 9]).int()},
        {"slot_mapping": torch.tensor([0, 17, -1]).int()},
        {"cos_sin": torch.randn(10, 32).double()},
        {"q_norm": strided(torch.randn(32)), "k_norm": strided(torch.randn(32))},
    ],
    ids=lambda changed: " ".join(changed),
)
@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_rope_takes_every_layout_and_dtype(changed: dict[str, torch.Tensor]) -> None:
    q, k, v = torch.randn(3, 8, 32).split([4, 2, 2], dim=1)
    rest = {"positions": torch.tensor([1, 5, 9]), "slot_mapping": torch.tensor([0, 17, -1])}
    arguments = {"cos_sin": torch.randn(10, 32), **rest, **changed}
    mine, other = caches(32), [x.clone() for x in caches(32)]
    pages = {"k_cache": mine[0], "v_cache": mine[1]}
    found = csrc_triton.rope_and_cache(q, k, v, **arguments, **pages, eps=1e-6)
    pages = {"k_cache": other[0], "v_cache": other[1]}
    expected = reference.rope_and_cache(q, k, v, **arguments, **pages, eps=1e-6)
    for ours, theirs in zip((found, *mine), (expected, *other), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize(("kind", "other"), [(FP32, BF16), (BF16, FP32)])
@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_a_residual_of_another_dtype(kind: torch.dtype, other: torch.dtype) -> None:
    x, residual, weight = torch.randn(3, 40).to(kind), torch.randn(3, 40).to(other), torch.ones(40)
    found = csrc_triton.rms_norm(x, weight.to(kind), 1e-6, residual)
    expected = reference.rms_norm(x, weight.to(kind), 1e-6, residual)
    torch.testing.assert_close(found, expected)


def test_products_refuse_other_dtypes_and_take_other_layouts() -> None:
    x, weight, bias = torch.randn(3, 40), torch.randn(20, 40), torch.randn(20)
    packed, expected = pack_weight(weight), x @ weight.T + bias
    torch.testing.assert_close(
        csrc_triton.packed_linear(strided(x), strided(packed), strided(bias), 20), expected, **CLOSE
    )
    for wrong in ((packed.to(BF16), bias), (packed, bias.to(BF16)), (packed, bias[:19])):
        with pytest.raises(ValueError, match=r"packed is|bias"):
            csrc_triton.packed_linear(x, *wrong, 20)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kind", [FP32, BF16], ids=str)
def test_gates_of_any_size(kind: torch.dtype, gate: Gate) -> None:
    gates = torch.tensor([-3e38, -1e38, -1e30, -200.0, -88.5, -88.2, -1e-40, 0.0, 88.5, 3e38])
    special = torch.tensor([float("inf"), -float("inf"), float("nan")])
    gates = torch.cat((gates, special)).to(kind)
    gate_up = torch.cat((gates, torch.ones_like(gates)))
    torch.testing.assert_close(
        csrc_triton.gated_activation(gate_up, gate),
        reference.gated_activation(gate_up, gate),
        rtol=1e-2,
        atol=1e-30,
        equal_nan=True,
    )


def test_gelu_keeps_its_digits_in_fp32() -> None:
    x = torch.linspace(-5, 12, 3001)
    found = csrc_triton.gated_activation(torch.cat((x, torch.ones_like(x))), "gelu_tanh")
    wide = x.double()
    inner = (2 / torch.pi) ** 0.5 * (wide + 0.044715 * wide**3)
    torch.testing.assert_close(found.double(), wide * torch.sigmoid(2 * inner), rtol=4e-6, atol=0)
