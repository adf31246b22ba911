"""RMSNorm, SwiGLU and rope equal those of transformers, whose checkpoints the engine runs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2FN
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm, apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

import csrc_triton
from csrc_triton import reference

GATES = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
both_dtypes = pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)


@both_dtypes
@pytest.mark.parametrize("shape", [(5, 48), (3, 4, 16), (0, 16)])
def test_rms_norm_is_qwen2s(shape, kind):
    """The reference to the bit; a kernel adds the squares in another order."""
    theirs = Qwen2RMSNorm(shape[-1], eps=1e-5).to(kind)
    torch.nn.init.normal_(theirs.weight)
    x, residual = torch.randn(2, *shape).to(kind)
    assert torch.equal(reference.rms_norm(x, theirs.weight, 1e-5), theirs(x))
    torch.testing.assert_close(csrc_triton.rms_norm(x, theirs.weight, 1e-5), theirs(x))
    for rms_norm in (reference.rms_norm, csrc_triton.rms_norm):
        y, total = rms_norm(x, theirs.weight, 1e-5, residual)
        assert torch.equal(total, x + residual)
        torch.testing.assert_close(y, theirs(x + residual))


@both_dtypes
@pytest.mark.parametrize("name", ["silu", "gelu_pytorch_tanh"])
def test_gates_are_transformers_activations(name, kind):
    gate, up = 3 * torch.randn(2, 3, 5, 24).to(kind)
    out = csrc_triton.gated_activation(torch.cat((gate, up), -1), GATES[name])
    torch.testing.assert_close(out, ACT2FN[name](gate) * up)


@both_dtypes
@pytest.mark.parametrize("theirs", [Olmo2RMSNorm, Gemma3RMSNorm])
def test_a_norm_with_an_fp32_weight_is_rounded_once(theirs, kind):
    theirs = theirs(48, eps=1e-5).to(kind).requires_grad_(False)
    torch.nn.init.normal_(theirs.weight)
    weight = theirs.weight.float() + isinstance(theirs, Gemma3RMSNorm)
    wide = torch.randn(7, 80).to(kind)
    for x in (torch.randn(5, 48).to(kind), wide[:, 16:64], wide[:, :48], torch.randn(48).to(kind)):
        # A kernel adds the squares in another order: a few numbers are rounded to their neighbour.
        for rms_norm in (reference.rms_norm, csrc_triton.rms_norm):
            torch.testing.assert_close(rms_norm(x, weight, 1e-5), theirs(x))
            y, total = rms_norm(x, weight, 1e-5, x)
            torch.testing.assert_close(y, theirs(x + x))
            assert torch.equal(total, x + x)
    narrow = csrc_triton.rms_norm(x := wide[:, :48], weight.to(kind), 1e-5)
    assert torch.equal(narrow, csrc_triton.rms_norm(x.contiguous(), weight.to(kind), 1e-5))


def rope_case(rows, num_q_heads, num_kv_heads, head_dim):
    q = torch.randn(rows, num_q_heads, head_dim)
    k, v = torch.randn(2, rows, num_kv_heads, head_dim)
    angles = torch.arange(64)[:, None] * 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    cos_sin = torch.cat((angles.cos(), angles.sin()), -1)
    caches = torch.randn(2, 3, 16, num_kv_heads, head_dim)
    return q, k, v, cos_sin, torch.randint(0, 64, (rows,)), *caches


@pytest.mark.parametrize("heads", [(4, 2, 16), (3, 1, 80)])
def test_rope_is_transformers(heads):
    q, k, v, cos_sin, positions, k_cache, v_cache = rope_case(7, *heads)
    slots = torch.randperm(48)[:7]
    q_out = csrc_triton.rope_and_cache(q, k, v, cos_sin, positions, k_cache, v_cache, slots)
    cos, sin = cos_sin[positions].chunk(2, -1)
    cos, sin = torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]
    theirs = apply_rotary_pos_emb(q[None].transpose(1, 2), k[None].transpose(1, 2), cos, sin)
    ours = q_out, k_cache[slots // 16, slots % 16]
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their.squeeze(0).transpose(0, 1))


@both_dtypes
@pytest.mark.parametrize("wide", [False, True])
def test_norms_before_the_rotation_are_those_of_qwen3_and_gemma3(wide, kind):
    q, k, v, cos_sin, positions, *caches = rope_case(6, 4, 2, 16)
    q, k, v, caches = q.to(kind), k.to(kind), v.to(kind), [x.to(kind) for x in caches]
    made = Gemma3RMSNorm if wide else Qwen3RMSNorm
    norms = [made(16, eps=1e-5).to(kind).requires_grad_(False) for _ in "qk"]
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    rest = cos_sin, positions, *caches, torch.randperm(48)[:6]
    q_norm, k_norm = (1 + norm.weight.float() if wide else norm.weight for norm in norms)
    weights = {"q_norm": q_norm, "k_norm": k_norm, "eps": 1e-5}
    ours = csrc_triton.rope_and_cache(q, k, v, *rest, **weights)
    stored = [x.clone() for x in caches]
    theirs = csrc_triton.rope_and_cache(norms[0](q), norms[1](k), v, *rest)
    for our, their in zip((ours, *stored), (theirs, *caches), strict=True):
        assert torch.equal(our, their)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(-1, 47), max_size=9, unique_by=lambda s: (s, object())[s < 0]))
def test_cache_holds_the_rotated_keys_at_their_slots_and_nothing_else_changes(slots):
    q, k, v, cos_sin, positions, *_ = rope_case(len(slots), 4, 2, 16)
    k_cache, v_cache = csrc_triton.cache_views(*torch.randn(2, 3, 16 * 2 * 16), 16, 2, 16)
    before = k_cache.clone(), v_cache.clone()
    rest = q, k, v, cos_sin, positions
    # The rotated keys: those of a call that stores every row.
    every, _ = caches = csrc_triton.cache_views(*torch.empty(2, 3, 16 * 2 * 16), 16, 2, 16)
    csrc_triton.rope_and_cache(*rest, *caches, torch.arange(len(slots)))
    rotated = every.flatten(0, 1)[: len(slots)]
    at = torch.tensor(slots, dtype=torch.int64)
    csrc_triton.rope_and_cache(*rest, k_cache, v_cache, at)
    for cache, old, new in ((k_cache, before[0], rotated), (v_cache, before[1], v)):
        expected = old.clone()
        for row, slot in enumerate(slots):
            if slot >= 0:
                expected[slot // 16, slot % 16] = new[row]
        assert torch.equal(cache, expected)


def test_rope_takes_tensors_with_row_strides_of_their_own():
    q, k, v, cos_sin, positions, *_ = rope_case(5, 4, 2, 16)
    fused = torch.randn(5, 8, 16)
    fused[:, 6:] = v
    rotated, stored = [], []
    for value in (v, fused[:, 6:]):
        pages = csrc_triton.cache_views(*torch.zeros(2, 3, 16 * 2 * 16), 16, 2, 16)
        rest = cos_sin, positions, *pages, torch.arange(5)
        rotated.append(csrc_triton.rope_and_cache(q, k, value, *rest))
        stored += pages
    assert torch.equal(*rotated)
    assert torch.equal(stored[0], stored[2])
    assert torch.equal(stored[1], stored[3])


def test_bf16_rope_rotates_in_fp32():
    q, k, v, cos_sin, positions, k_cache, v_cache = rope_case(5, 2, 1, 16)
    rest = cos_sin, positions
    q, k, v, k_cache, v_cache = (x.bfloat16() for x in (q, k, v, k_cache, v_cache))
    slots = torch.arange(5)
    wide_keys, wide_values = k_cache.float(), v_cache.float()
    narrow = csrc_triton.rope_and_cache(q, k, v, *rest, k_cache, v_cache, slots)
    wide = csrc_triton.rope_and_cache(
        q.float(), k.float(), v.float(), *rest, wide_keys, wide_values, slots
    )
    assert torch.equal(narrow, wide.bfloat16())
    assert torch.equal(k_cache, wide_keys.bfloat16())


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match="weight"):
        csrc_triton.rms_norm(torch.ones(2, 8), torch.ones(4), 1e-6)
    with pytest.raises(ValueError, match="residual"):
        csrc_triton.rms_norm(torch.ones(2, 8), torch.ones(8), 1e-6, torch.ones(1, 8))
    with pytest.raises(ValueError, match="even"):
        csrc_triton.gated_activation(torch.ones(2, 7), "silu")
    with pytest.raises(ValueError, match="'relu' is not one of"):
        csrc_triton.gated_activation(torch.ones(2, 8), "relu")
    with pytest.raises(
        ValueError, match=r"weight torch.bfloat16 \(8,\) for the norm of x torch.float32"
    ):
        csrc_triton.rms_norm(torch.ones(2, 8), torch.ones(8).bfloat16(), 1e-6)
    case = rope_case(3, 2, 1, 16)
    with pytest.raises(ValueError, match="3 rows"):
        csrc_triton.rope_and_cache(*case, torch.arange(2))
    with pytest.raises(ValueError, match="belong together"):
        csrc_triton.rope_and_cache(*case, torch.arange(3), q_norm=torch.ones(16))
    norms = {"q_norm": torch.ones(16), "k_norm": torch.ones(8)}
    with pytest.raises(ValueError, match=r"weight torch.float32 \(8,\)"):
        csrc_triton.rope_and_cache(*case, torch.arange(3), **norms)
