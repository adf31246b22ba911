"""Grouped products follow their definition slot by slot, packed and plain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csrc_triton import Gate, Routing, grouped_linear, pack_weight, reference, weighted_sum

FP32, BF16 = torch.float32, torch.bfloat16
CLOSE = {FP32: {"atol": 1e-5, "rtol": 1e-4}, BF16: {"atol": 0.06, "rtol": 0.02}}


@given(
    ids=st.integers(1, 4).flatmap(
        lambda k: st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k), max_size=12)
    )
)
def test_a_routing_lists_each_slot_under_its_expert(ids: list[list[int]]) -> None:
    table = torch.tensor(ids).view(len(ids), -1) if ids else torch.zeros(0, 1, dtype=torch.int64)
    routing = Routing.of(table, 5)
    bounds = routing.offsets.tolist()
    for expert in range(5):
        slots = routing.slots[bounds[expert] : bounds[expert + 1]].tolist()
        assert slots == [slot for slot, one in enumerate(table.flatten()) if one == expert]
    assert bounds[0] == 0
    assert (routing.num_experts, routing.top_k) == (5, table.shape[1])


@pytest.mark.parametrize("gate", [None, "silu", "gelu_tanh"])
@pytest.mark.parametrize("kind", [FP32, BF16], ids=str)
def test_each_slot_is_its_row_times_the_weight_of_its_expert(
    kind: torch.dtype, gate: Gate | None
) -> None:
    ids = torch.tensor([[3, 0], [0, 5], [5, 3], [3, 5]])
    routing = Routing.of(ids, 6)
    weights = torch.randn(6, 40 if gate else 20, 30).to(kind) * 0.2
    packed = torch.stack([pack_weight(one, gated=gate is not None) for one in weights])
    wide = torch.randn(8, 50).to(kind)
    for x in (wide[:4, 3:33], wide[:, :30]):  # a row for each token, or for each slot
        slots = [x[slot * len(x) // 8] @ weights[one].T for slot, one in enumerate(ids.flatten())]
        expected = torch.stack(slots)
        expected = reference.gated_activation(expected, gate) if gate else expected
        for layout in (weights, packed):
            found = grouped_linear(x, layout, routing, 20, gate=gate)
            torch.testing.assert_close(found, expected, **CLOSE[kind])
    ranks = torch.rand(4, 2).to(kind)
    total = (found.float().view(4, 2, 20) * ranks.float()[..., None]).sum(1)
    torch.testing.assert_close(weighted_sum(found, ranks), total.to(kind))


def test_what_disagrees_is_refused() -> None:
    routing = Routing.of(torch.tensor([[0, 1], [2, 1]]), 3)
    x, weights = torch.randn(2, 8), torch.randn(3, 6, 8)
    with pytest.raises(ValueError, match=r"for 4 slots of 2 a token"):
        grouped_linear(x[:1], weights, routing, 6)
    for wrong, outputs, gate in (
        (weights[:2], 6, None),
        (weights, 6, "silu"),
        (weights[..., :7], 6, None),
        (torch.stack([pack_weight(one) for one in weights]), 17, None),
    ):
        with pytest.raises(ValueError, match=r"weights torch.Size.* for 3 experts"):
            grouped_linear(x, wrong, routing, outputs, gate=gate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weights are torch.bfloat16"):
        grouped_linear(x, weights.to(BF16), routing, 6)
    packed = torch.stack([pack_weight(one) for one in weights.half()])
    with pytest.raises(ValueError, match=r"no CPU kernels for packed weights of torch.float16"):
        grouped_linear(x.half(), packed, routing, 6)
    with pytest.raises(ValueError, match="rows"):
        weighted_sum(torch.randn(4, 8), torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"weights torch.bfloat16"):
        weighted_sum(torch.randn(4, 8), torch.rand(2, 2).to(BF16))
