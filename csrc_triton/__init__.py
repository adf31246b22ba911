"""Kernels as pure functions on tensors: Triton on a GPU, C on a CPU.

Every function dispatches by the device of its tensors. What the kernels of a CPU do not take goes
to the plain-torch reference that all kernels are tested against. Triton is imported at the first
CUDA call, so the package works without triton. Shapes use N rows (query tokens), Hq query
heads, Hkv kv heads (Hq is a multiple of Hkv) and D, the head dim. A kernel takes fp32, fp16 and
bf16, computes in fp32 and rounds as the reference does. It raises ValueError for inputs that a GPU
would refuse.

Keys and values live in pages: `k_cache` and `v_cache` are [num_pages, page_size, Hkv, D]. Their
strides are those of `cache_views`: the kernels of a device read one layout, the references any. The
flat slot of a token is `page * page_size + offset`; kernels need page sizes that divide 16.
`csrc_triton.worklist` describes how a caller says which tokens each row attends to. Slots,
positions, pages, rows and token ids must lie within their tensors: a kernel does not check them.
"""

from csrc_triton.checks import Gate
from csrc_triton.contracts.attention import (
    decode_attention,
    decode_attention_partials,
    prefill_attention,
    prefill_tiling,
    reduce_partials,
    rope_and_cache,
)
from csrc_triton.contracts.experts import grouped_linear, weighted_sum
from csrc_triton.contracts.products import has_cpu_kernels, pack_weight, packed_linear
from csrc_triton.contracts.quantized import (
    dequantize_weight,
    grouped_quantized_linear,
    quantize_weight,
    quantized_linear,
)
from csrc_triton.contracts.rows import gated_activation, rms_norm
from csrc_triton.contracts.sampling import sample, token_logprobs
from csrc_triton.pages import cache_views
from csrc_triton.quantized import QuantizedWeight
from csrc_triton.reference import merge_states, uniform
from csrc_triton.routing import Routing
from csrc_triton.worklist import PagedSpan, PrefillPlan, WorkList

__all__ = [
    "Gate",
    "PagedSpan",
    "PrefillPlan",
    "QuantizedWeight",
    "Routing",
    "WorkList",
    "cache_views",
    "decode_attention",
    "decode_attention_partials",
    "dequantize_weight",
    "gated_activation",
    "grouped_linear",
    "grouped_quantized_linear",
    "has_cpu_kernels",
    "merge_states",
    "pack_weight",
    "packed_linear",
    "prefill_attention",
    "prefill_tiling",
    "quantize_weight",
    "quantized_linear",
    "reduce_partials",
    "rms_norm",
    "rope_and_cache",
    "sample",
    "token_logprobs",
    "uniform",
    "weighted_sum",
]
