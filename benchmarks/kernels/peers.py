"""Kernels of other projects on the same pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from csrc_triton import PagedSpan


def flashinfer_decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    contexts: Sequence[Sequence[PagedSpan]],
    scale: float,
) -> Callable[[], Tensor] | None:
    """FlashInfer's paged decode, planned and ready to run; None if it is not installed.

    All spans of a context but the last must fill their pages.
    """
    if not q.is_cuda or find_spec("flashinfer") is None:
        return None
    import flashinfer  # noqa: PLC0415 (optional)

    pages = [[page for span in spans for page in span.pages] for spans in contexts]
    offsets = torch.tensor([0, *(len(row) for row in pages)]).cumsum(0)
    page_size = keys.shape[1]
    last = [(spans[-1].stop - 1) % page_size + 1 for spans in contexts]
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(512 << 20, dtype=torch.uint8, device=q.device), "NHD", use_tensor_cores=True
    )
    wrapper.plan(
        offsets.int().to(q.device),
        torch.tensor([page for row in pages for page in row], dtype=torch.int32, device=q.device),
        torch.tensor(last, dtype=torch.int32, device=q.device),
        q.shape[1],
        keys.shape[2],
        q.shape[2],
        page_size,
        q_data_type=q.dtype,
        kv_data_type=keys.dtype,
        sm_scale=scale,
    )
    return lambda: wrapper.run(q, (keys, values))
