"""Products in 8 bits: exact sums, scales of their own for each row, and nobody's company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from csrc_triton import (
    Gate,
    Routing,
    dequantize_weight,
    grouped_quantized_linear,
    has_cpu_kernels,
    quantize_weight,
    quantized_linear,
    reference,
    reference_quantized,
)
from csrc_triton.checks import GATES

FP32, BF16 = torch.float32, torch.bfloat16
CLOSE = {FP32: {"atol": 1e-5, "rtol": 1e-5}, BF16: {"atol": 1e-3, "rtol": 8e-3}}

pytestmark = pytest.mark.skipif(not has_cpu_kernels(FP32), reason="no C compiler")
both_dtypes = pytest.mark.parametrize("kind", [FP32, BF16], ids=str)
shapes = st.tuples(st.integers(0, 20), st.integers(1, 300), st.integers(1, 120))
groups = st.sampled_from([None, 4, 32, 128])


def integers(rows: int, inputs: int, group: int, seed: int) -> torch.Tensor:
    """Integers whose scale is 1: each group begins with 127 or -127. Many are as large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-127, 128, (rows, inputs), generator=generator)
    sign = 1 - 2 * torch.randint(0, 2, (rows, inputs), generator=generator)
    large = torch.rand(rows, inputs, generator=generator) < 0.5
    large[:, ::group] = True
    return torch.where(large, 127 * sign, x)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(shapes, groups, st.integers(0, 99))
def test_sums_are_those_of_int64(shape: tuple[int, int, int], group: int | None, seed: int) -> None:
    rows, inputs, outputs = shape
    x = integers(rows, inputs, group or inputs, seed)
    weight = integers(outputs, inputs, group or inputs, seed + 1)
    found = quantized_linear(x.float(), quantize_weight(weight.float(), group=group), None)
    assert torch.equal(found, (x @ weight.T).float())  # below 2^24: exact in fp32


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, -1)])
def test_the_greatest_sums_do_not_overflow(signs: tuple[int, int]) -> None:
    x, weight = (
        sign * torch.full((n, 1 << 17), 127.0) for sign, n in zip(signs, (9, 1), strict=True)
    )
    found = quantized_linear(x, quantize_weight(weight), None)
    exact = signs[0] * signs[1] * 127 * 127 * (1 << 17)
    assert torch.equal(found, torch.full((9, 1), exact).float())


@both_dtypes
@pytest.mark.parametrize("group", [None, 64])
@pytest.mark.parametrize("gate", [None, *GATES])
def test_products_equal_the_reference(
    gate: Gate | None, group: int | None, kind: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(n, 203, generator=generator).to(kind) for n in (270, 94))
    x *= 3 * torch.rand(270, 1, generator=generator).to(kind)
    bias = None if gate else torch.randn(94, generator=generator).to(kind)
    quantized = quantize_weight(weight / 14, group=group, gated=gate is not None)
    found = quantized_linear(x.view(3, 90, 203), quantized, bias, gate=gate)
    expected = reference_quantized.quantized_linear(x, weight / 14, bias, group or 203, gate)
    torch.testing.assert_close(found, expected.view(3, 90, -1), **CLOSE[kind])
    assert found.dtype == kind
    plain = F.linear(x.float(), (weight / 14).float(), None if bias is None else bias.float())
    plain = reference.gated_activation(plain, gate) if gate else plain
    assert (found.flatten(0, 1) - plain).norm() < 0.02 * plain.norm()


@settings(deadline=None, derandomize=True, max_examples=25)
@given(shapes, groups, st.sampled_from([1, 2]), st.data())
def test_bits_of_a_row_depend_on_no_other_row(
    shape: tuple[int, int, int], group: int | None, threads: int, data: st.DataObject
) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(inputs)
    x, weight = (torch.randn(n, inputs, generator=generator) for n in (rows, outputs))
    quantized = quantize_weight(weight, group=group)
    some = data.draw(st.lists(st.integers(0, rows - 1), max_size=30)) if rows else []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = quantized_linear(x, quantized, None)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(quantized_linear(x[some], quantized, None), together[some])


@both_dtypes
@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_becomes_nan_and_harms_no_other(
    odd: float, group: int | None, kind: torch.dtype
) -> None:
    x, weight = torch.randn(11, 90).to(kind), torch.randn(40, 90).to(kind)
    quantized = quantize_weight(weight, group=group)
    expected = quantized_linear(x, quantized, None)
    x[4, 70] = odd
    expected[4] = torch.nan
    found = quantized_linear(x, quantized, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    weight[7, 3] = odd
    expected[:, 7] = torch.nan
    found = quantized_linear(x, quantize_weight(weight, group=group), None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@both_dtypes
def test_rows_of_zeros_and_nearly_zeros_give_the_bias(kind: torch.dtype) -> None:
    x, weight, bias = torch.zeros(3, 40), torch.randn(20, 40).to(kind), torch.randn(20).to(kind)
    x[1], x[2] = 1e-31, -1e-42
    found = quantized_linear(x.to(kind), quantize_weight(weight), bias)
    assert torch.equal(found, bias.expand(3, 20))
    dead = quantize_weight(torch.zeros_like(weight), group=8)
    assert torch.equal(quantized_linear(torch.randn(3, 40).to(kind), dead, bias), found)


@both_dtypes
@pytest.mark.parametrize("gated", [False, True])
@settings(deadline=None, derandomize=True, max_examples=15)
@given(shape=shapes, group=groups)
def test_a_weight_becomes_the_nearest_integers(
    shape: tuple[int, int, int], group: int | None, gated: bool, kind: torch.dtype
) -> None:
    _, inputs, outputs = shape
    weight = torch.randn(outputs * (2 if gated else 1), inputs).to(kind)
    quantized = quantize_weight(weight, group=group, gated=gated)
    found = dequantize_weight(quantized)
    parts = reference_quantized.quantize(weight, group or inputs)
    assert torch.equal(found, reference_quantized.dequantize(*parts, inputs))
    again = quantize_weight(found, group=group, gated=gated)
    torch.testing.assert_close(dequantize_weight(again), found, rtol=1e-6, atol=0)
    packed = -(-outputs // 16) * 16 * (-(-inputs // 4) * 4) * (2 if gated else 1)
    assert quantized.data.numel() == packed + 4 * quantized.scales.numel()


def test_what_does_not_fit_is_refused() -> None:
    x, weight = torch.randn(3, 40), torch.randn(20, 40)
    quantized, gated = quantize_weight(weight), quantize_weight(weight, gated=True)
    for arguments, said in (
        ((x[:, :39], quantized, None), "39.* for 40 inputs"),
        ((x, gated, None), "gated is True, gate None"),
        ((x, quantized, torch.ones(20).to(BF16)), "bias torch.bfloat16"),
        ((x, quantized, torch.ones(19)), "for 20 outputs"),
        ((x.double(), quantized, None), "no CPU kernels for torch.float64"),
    ):
        with pytest.raises(ValueError, match=said):
            quantized_linear(*arguments)
    with pytest.raises(ValueError, match="gated is False, gate silu"):
        quantized_linear(x, quantized, None, gate="silu")
    for group in (0, 6, -4):
        with pytest.raises(ValueError, match="no multiple of 4"):
            quantize_weight(weight, group=group)
    with pytest.raises(ValueError, match="19 outputs of a gated weight"):
        quantize_weight(weight[:19], gated=True)
    with pytest.raises(ValueError, match="131073 inputs"):
        quantize_weight(torch.empty(1, (1 << 17) + 1))
    with pytest.raises(ValueError, match=r"\[out, in\]"):
        quantize_weight(x[0])


def test_strides_of_every_kind() -> None:
    x, weight = torch.randn(40, 3), torch.randn(40, 20)
    expected = quantized_linear(x.T.contiguous(), quantize_weight(weight.T.contiguous()), None)
    assert torch.equal(quantized_linear(x.T, quantize_weight(weight.T), None), expected)


@both_dtypes
@pytest.mark.parametrize("gate", GATES)
@given(slots=st.integers(0, 700), top_k=st.sampled_from([1, 3]), inputs=st.integers(1, 90))
@settings(deadline=None, derandomize=True, max_examples=12)
def test_an_experts_rows_are_multiplied_as_if_alone(
    kind: torch.dtype, gate: Gate | None, slots: int, top_k: int, inputs: int
) -> None:
    """Bit for bit, also where an expert has more rows than are packed at once, or none."""
    generator = torch.Generator().manual_seed(slots)
    tokens, experts = slots // top_k, 4
    ids = torch.randint(0, experts, (tokens, top_k), generator=generator) // 2 * 2
    weights = torch.randn(experts, 40, inputs, generator=generator).to(kind)
    x = torch.randn(tokens, inputs, generator=generator).to(kind)
    made = [quantize_weight(one, group=32, gated=gate is not None) for one in weights]
    stacked = made[0].stacked(torch.stack([one.data for one in made]))
    found = grouped_quantized_linear(x, stacked, Routing.of(ids, experts), gate=gate)
    for slot, expert in enumerate(ids.flatten().tolist()):
        alone = quantized_linear(x[slot // top_k], made[expert], None, gate=gate)
        assert torch.equal(found[slot], alone)
    each = grouped_quantized_linear(  # a row for each slot
        x.repeat_interleave(top_k, 0), stacked, Routing.of(ids, experts), gate=gate
    )
    assert torch.equal(found, each)


def test_weights_of_other_experts_are_refused() -> None:
    made = quantize_weight(torch.randn(16, 8))
    routing = Routing.of(torch.tensor([[0, 1]]), 2)
    for weights, x in (
        (made, torch.randn(1, 8)),
        (made.stacked(made.data[None]), torch.randn(1, 8)),
    ):
        with pytest.raises(ValueError, match="for 2 experts"):
            grouped_quantized_linear(x, weights, routing)
    two = made.stacked(torch.stack([made.data] * 2))
    with pytest.raises(ValueError, match="for 8 inputs"):
        grouped_quantized_linear(torch.randn(1, 9), two, routing)
