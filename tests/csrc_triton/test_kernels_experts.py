"""The kernels of a mixture of experts equal their references."""

from itertools import product

import pytest
import torch

from csrc_triton import Routing, experts
from csrc_triton import reference_experts as reference

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def close(actual, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual.cpu(), expected, atol=tolerance, rtol=tolerance)


def on(device, routing):
    return Routing(routing.slots.to(device), routing.offsets.to(device), routing.top_k)


# (experts of each token, inputs, outputs). More inputs than a step takes, and columns that do not
# fill their blocks; of 16 bits each tile of the table.
CASES = {
    "few rows, experts without any": (torch.tensor([[4, 1], [1, 6], [6, 4]]), 140, 150),
    "one expert has all": (torch.full((40, 1), 2), 16, 20),
    "the last one has most": (
        torch.cat((torch.full((37, 1), 6), torch.arange(7)[:, None])),
        16,
        20,
    ),
    "some rows": (torch.stack([torch.randperm(4)[:3] for _ in range(30)]), 70, 20),
    "many rows": (torch.stack([torch.randperm(3)[:2] for _ in range(200)]), 70, 20),
    "none": (torch.zeros(0, 2, dtype=torch.int64), 16, 20),
}


@pytest.mark.parametrize(
    ("case", "gate"), [*product(CASES, (None, "silu")), ("some rows", "gelu_tanh")]
)
def test_grouped_linear(case, gate, dtype, device):
    ids, inputs, outputs = CASES[case]
    num_experts = {"some rows": 4, "many rows": 3}.get(case, 7)
    routing = Routing.of(ids, num_experts)
    shape = num_experts, outputs * (2 if gate else 1), inputs
    weights = torch.randn(shape).to(dtype) * inputs**-0.5
    for rows in {ids.shape[0], ids.numel()}:
        x = torch.randn(rows, inputs).to(dtype)
        expected = reference.grouped_linear(x, weights, routing, outputs, gate)
        where = x.to(device), weights.to(device), on(device, routing)
        close(experts.grouped_linear(*where, outputs, gate), expected)


def test_a_row_with_a_nan_is_its_own_affair(dtype, device):
    routing = Routing.of(torch.tensor([[0, 1], [1, 2], [0, 2]]), 3)
    x, weights = torch.randn(3, 16).to(dtype), torch.randn(3, 20, 16).to(dtype)
    expected = experts.grouped_linear(x.to(device), weights.to(device), on(device, routing), 20)
    x[1, 5] = float("nan")
    found = experts.grouped_linear(x.to(device), weights.to(device), on(device, routing), 20)
    assert found[2:4].isnan().all()
    others = torch.tensor([0, 1, 4, 5])
    assert torch.equal(found[others], expected[others])


@pytest.mark.parametrize("width", [1, 48, 1500])
def test_weighted_sum(width, dtype, device):
    rows, weights = torch.randn(5 * 3, width).to(dtype), torch.rand(5, 3).to(dtype)
    found = experts.weighted_sum(rows.to(device), weights.to(device))
    close(found, reference.weighted_sum(rows, weights))
