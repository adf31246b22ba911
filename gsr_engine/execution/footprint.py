"""What a loaded model takes of the memory, and how much runs in it at once."""

from __future__ import annotations

from dataclasses import dataclass

from gsr_engine.config import Quantization
from gsr_engine.kv.segments import PAGE_SIZE, pages_for
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import bytes_held
from gsr_engine.requests.limits import Limits

USUAL_K = 4
USUAL_TOKENS = (256, 1024, 512)
"""Tokens of the problem, of a candidate and of the refinement that "usual" means here."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of one engine.

    Attributes:
        dtype: of KV, and of weights that are not quantised, e.g. "bfloat16".
        quantization: of the weights of layers and head: "none", "int8" or "fp8".
        weight_bytes: memory of the weights, as the device holds them.
        kv_bytes_per_token: keys and values of all layers.
        pool_tokens: tokens that the KV pages have room for.
        refines_at_once: how many selfRef@4 of the usual lengths hold all of their pages at once;
            None if one alone is longer than the context.
    """

    dtype: str
    quantization: Quantization
    weight_bytes: int
    kv_bytes_per_token: int
    pool_tokens: int
    refines_at_once: int | None

    @classmethod
    def of(cls, decoder: Decoder, limits: Limits) -> Footprint:
        """The footprint of a decoder beside a pool of KV pages."""
        return cls(
            str(decoder.dtype).removeprefix("torch."),
            decoder.quantization,
            bytes_held(decoder),
            limits.page_bytes // PAGE_SIZE,
            limits.num_pages * PAGE_SIZE,
            _usual_requests(limits),
        )

    @property
    def arithmetic(self) -> str:
        """Dtype and quantisation in words, e.g. "bfloat16" or "int8, float32"."""
        return self.dtype if self.quantization == "none" else f"{self.quantization}, {self.dtype}"

    def __str__(self) -> str:
        """One line for a log."""
        shape = f"selfRef@{USUAL_K} of {'/'.join(f'{count:,}' for count in USUAL_TOKENS)} tokens"
        if self.refines_at_once is None:
            fit = f"{shape} is longer than the context"
        else:
            fit = f"{self.refines_at_once:,} {shape} fit at once"
        return (
            f"{self.weight_bytes / 2**30:.3g} GiB of weights ({self.arithmetic}), "
            f"{self.kv_bytes_per_token / 2**10:,.4g} KiB of KV per token, "
            f"{self.pool_tokens:,} tokens in the pool: {fit}"
        )


def _usual_requests(limits: Limits) -> int | None:
    """See `Footprint.refines_at_once`; the few tokens of the instruction are not counted.

    Both layouts need the same pages: the linear one frees the candidates before it reads them
    again.
    """
    problem, candidate, refine = USUAL_TOKENS
    if problem + USUAL_K * candidate + refine > limits.max_model_len:
        return None
    pages = pages_for(problem) + USUAL_K * pages_for(candidate) + pages_for(refine)
    return limits.num_pages // pages
