"""The norm, activation and rope kernels equal their references."""

import pytest
import torch

from csrc_triton import activation, norm, reference, rope
from csrc_triton.checks import GATES

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def close(actual, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual.cpu(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("shape", [(3, 48), (2, 3, 80), (4, 1)])
def test_rms_norm(shape, dtype, device):
    x, residual = torch.randn(2, *shape).to(dtype)
    weight = torch.randn(shape[-1]).to(dtype)
    args = [t.to(device) for t in (x, weight, residual)]
    close(norm.rms_norm(*args[:2], 1e-5), reference.rms_norm(x, weight, 1e-5))
    y, total = norm.rms_norm(*args[:2], 1e-5, args[2])
    expected = reference.rms_norm(x, weight, 1e-5, residual)
    close(y, expected[0])
    assert torch.equal(total.cpu(), expected[1])


def test_rms_norm_refuses_what_it_cannot_hold(device):
    with pytest.raises(ValueError, match="wider"):
        norm.rms_norm(torch.ones(1, 40_000, device=device), torch.ones(40_000), 1e-6)
    with pytest.raises(ValueError, match="weight"):
        norm.rms_norm(torch.ones(1, 8, device=device), torch.ones(8).half(), 1e-6)


@pytest.mark.parametrize("kind", ["wide weight", "narrow weight"])
def test_rms_norm_of_a_slice_of_rows(kind, dtype, device):
    x, residual = torch.randn(5, 64).to(dtype)[:, 8:56], torch.randn(5, 48).to(dtype)
    weight = torch.randn(48).to(torch.float32 if kind == "wide weight" else dtype)
    args = [t.to(device) for t in (x, weight, residual)]
    close(norm.rms_norm(*args[:2], 1e-5), reference.rms_norm(x, weight, 1e-5))
    found, expected = (
        norm.rms_norm(*args[:2], 1e-5, args[2]),
        reference.rms_norm(x, weight, 1e-5, residual),
    )
    for actual, one in zip(found, expected, strict=True):
        close(actual, one)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", [(3, 48), (2, 1, 2100), (1, 2)])
def test_gates(shape, gate, dtype, device):
    gate_up = 3 * torch.randn(shape).to(dtype)
    found = activation.gated_activation(gate_up.to(device), gate)
    close(found, reference.gated_activation(gate_up, gate))


@pytest.mark.parametrize("normed", [None, "narrow", "wide"])
@pytest.mark.parametrize("heads", [(4, 2, 16), (6, 3, 80), (7, 1, 96), (2, 2, 256)])
def test_rope_and_cache(heads, normed, dtype, device):
    num_q_heads, num_kv_heads, head_dim = heads
    width = num_q_heads + 2 * num_kv_heads
    # q, k and v are views of one fused projection, as the engine has them.
    fused = torch.randn(5, width, head_dim).to(dtype)
    caches = torch.randn(2, 3, 16, num_kv_heads, head_dim).to(dtype)
    cos_sin, positions = torch.randn(40, head_dim), torch.tensor([3, 0, 39, 7, 7])
    slots = torch.tensor([47, -1, 0, 16, -1])
    norm_dtype = torch.float32 if normed == "wide" else dtype
    norms = torch.randn(2, head_dim).to(norm_dtype) if normed else (None, None)

    def run(module, where):
        kv = caches.to(where, copy=True)
        q, k, v = fused.to(where).split([num_q_heads, num_kv_heads, num_kv_heads], dim=1)
        tables = cos_sin.to(where), positions.to(where)
        weights = [None if norm is None else norm.to(where) for norm in norms]
        step = kv[0], kv[1], slots.to(where)
        rotated = module.rope_and_cache(q, k, v, *tables, *step, *weights, 1e-5)
        return rotated, kv

    for actual, expected in zip(run(rope, device), run(reference, "cpu"), strict=True):
        close(actual, expected)


def test_rope_refuses_what_a_gpu_would(device):
    q = torch.zeros(1, 1, 48, device=device)
    cache = torch.zeros(1, 16, 1, 48, device=device)
    args = (torch.zeros(4, 48), torch.zeros(1, dtype=torch.int64), cache, cache, torch.tensor([0]))
    with pytest.raises(ValueError, match="head dim 48"):
        rope.rope_and_cache(q, q, q, *args)
