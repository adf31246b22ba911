"""What a context of spans must compute, as one forward of transformers under a dense mask."""

from __future__ import annotations

import torch

from gsr_engine.segments import Segment, Span


@torch.no_grad()
def causal_logits(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] of an ordinary forward."""
    return model(torch.tensor([token_ids])).logits[0].float()


@torch.no_grad()
def segment_logits(model: torch.nn.Module, segment: Segment) -> torch.Tensor:
    """Logits of a segment's own tokens, from one forward over every token that it depends on.

    The mask is the definition itself: a token sees its segment's context and, causally, its own
    segment. Positions are the segments' own.
    """
    order: list[Segment] = []
    _collect(segment, order)
    token_ids, positions, owners = [], [], []
    for one in order:
        token_ids += one.token_ids
        positions += range(one.position, one.end_position)
        owners += [(one, index) for index in range(len(one))]
    allowed = torch.zeros(len(owners), len(owners), dtype=torch.bool)
    for row, (reader, at) in enumerate(owners):
        for column, (writer, index) in enumerate(owners):
            allowed[row, column] = (writer is reader and index <= at) or any(
                span.segment is writer and span.start <= index < span.stop
                for span in reader.context
            )
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    logits = model(
        torch.tensor([token_ids]),
        attention_mask=mask[None, None],
        position_ids=torch.tensor([positions]),
    ).logits[0]
    return logits[-len(segment) :].float()


def _collect(segment: Segment, order: list[Segment]) -> None:
    for span in segment.context:
        if span.segment not in order:
            _collect(span.segment, order)
    order.append(segment)


def stream_logits(model: torch.nn.Module, stream: Segment) -> torch.Tensor:
    """Logits that each token of a generated segment was drawn from.

    The first comes from the last row of the segment before it in its context, the prompt.
    """
    prompt: Span = stream.context[-1]
    first = segment_logits(model, prompt.segment)[-1:]
    return torch.cat([first, segment_logits(model, stream)[:-1]])
