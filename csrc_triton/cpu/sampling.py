"""Draws: temperature, top-k, top-p, min-p and one number through the inverse CDF."""

from __future__ import annotations

import torch
from torch import Tensor

from csrc_triton import reference
from csrc_triton.cpu.library import library
from csrc_triton.cpu.logits import block_scratch, contiguous_rows


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    indices: Tensor,
) -> Tensor:
    """See `csrc_triton.sample`."""
    kernels = library(logits.dtype)
    if kernels is None:
        return reference.sample(logits, temperature, top_k, top_p, min_p, seeds, indices)
    logits, (rows, vocab) = contiguous_rows(logits), logits.shape
    scratch = block_scratch(rows, vocab)
    threads = torch.get_num_threads()
    packed = torch.empty((min(rows, threads), vocab), dtype=torch.int64)
    ids = torch.empty(rows, dtype=torch.int64)
    # Converted tensors must live until the call ends.
    floats = [x.float().contiguous() for x in (temperature, top_p, min_p)]
    integers = [x.long().contiguous() for x in (top_k, seeds, indices)]
    (temperature, top_p, min_p), (top_k, seeds, indices) = floats, integers
    kernels.sample(
        ids.data_ptr(),
        scratch.data_ptr(),
        packed.data_ptr(),
        logits.data_ptr(),
        temperature.data_ptr(),
        top_k.data_ptr(),
        top_p.data_ptr(),
        min_p.data_ptr(),
        seeds.data_ptr(),
        indices.data_ptr(),
        rows,
        logits.stride(0),
        vocab,
        scratch.shape[2],
        len(packed),
        threads,
    )
    return ids
