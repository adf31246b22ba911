"""What a context of spans must compute, as one forward of transformers under a dense mask.

The model stays on its device and in its dtype. Its attention is eager, which takes any mask.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from gsr_engine.kv.segments import Segment, Span

TIE = 1e-3
"""Two fp32 logits that differ by less than this may swap their order by rounding."""


@torch.no_grad()
def causal_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of an ordinary forward, in fp32."""
    logits: torch.Tensor = model(torch.tensor([token_ids], device=model.device)).logits[0]
    return logits.float()


@torch.no_grad()
def segment_logits(model: PreTrainedModel, segment: Segment) -> torch.Tensor:
    """Logits of a segment's own tokens, from one forward over every token that it depends on.

    The mask is the definition itself: a token sees its segment's context and, causally, its own
    segment. Positions are the segments' own. In a layer with a window a token sees only those whose
    positions are less than the window before its own.
    """
    begins: dict[Segment, int] = {}
    token_ids: list[int] = []
    positions: list[int] = []
    _collect(segment, begins, token_ids, positions)
    allowed = torch.zeros(len(token_ids), len(token_ids), dtype=torch.bool)
    for reader, begin in begins.items():
        rows = slice(begin, begin + len(reader))
        allowed[rows, rows] = torch.ones(len(reader), len(reader), dtype=torch.bool).tril()
        for span in reader.context:
            first = begins[span.segment]
            allowed[rows, first + span.start : first + span.stop] = True
    logits: torch.Tensor = model(
        torch.tensor([token_ids], device=model.device),
        attention_mask=_masks(model, allowed, torch.tensor(positions)),
        position_ids=torch.tensor([positions], device=model.device),
    ).logits[0]
    return logits[-len(segment) :].float()


def _masks(model: PreTrainedModel, allowed: torch.Tensor, positions: torch.Tensor) -> Any:
    """The mask of each type of layer, or the one of all layers."""

    def mask(seen: torch.Tensor) -> torch.Tensor:
        lowest = torch.finfo(model.dtype).min
        zeros = torch.zeros(seen.shape, dtype=model.dtype)
        return zeros.masked_fill(~seen, lowest)[None, None].to(model.device)

    window = getattr(model.config, "sliding_window", None)
    if window is None:
        return mask(allowed)
    near = allowed & (positions[:, None] - positions < window)
    if getattr(model.config, "layer_types", None) is None:
        return mask(near)
    return {"full_attention": mask(allowed), "sliding_attention": mask(near)}


def _collect(
    segment: Segment, begins: dict[Segment, int], token_ids: list[int], positions: list[int]
) -> None:
    """Append a segment after everything that it depends on."""
    for span in segment.context:
        if span.segment not in begins:
            _collect(span.segment, begins, token_ids, positions)
    begins[segment] = len(token_ids)
    token_ids += segment.token_ids
    positions += range(segment.position, segment.end_position)


def stream_logits(model: PreTrainedModel, stream: Segment) -> torch.Tensor:
    """Logits that each token of a generated segment was drawn from.

    The first token is drawn from the last row of the prompt, the last segment of its context.
    """
    prompt: Span = stream.context[-1]
    first = segment_logits(model, prompt.segment)[-1:]
    return torch.cat([first, segment_logits(model, stream)[:-1]])


def shortfalls(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    """How far the logit of each token is below the best of its row; 0 for a greedy token."""
    drawn = torch.tensor(token_ids, device=logits.device)
    return logits.max(dim=1).values - logits.gather(1, drawn[:, None]).squeeze(1)
