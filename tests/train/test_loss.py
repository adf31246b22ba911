"""Cross-entropy in chunks is cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from train.trainer.loss import target_losses


@pytest.mark.parametrize("chunk", [1, 50, 10_000])
@pytest.mark.parametrize("count", [0, 1, 23])
def test_chunks_change_neither_losses_nor_gradients(count: int, chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(count, 8), torch.randn(11, 8)
    targets, weights = torch.randint(11, (count,)), torch.rand(count)
    outcomes = []
    for compute in (
        lambda h, w: target_losses(h, w, targets, chunk),
        lambda h, w: F.cross_entropy(h @ w.T, targets, reduction="none"),
    ):
        states, weight = hidden.clone().requires_grad_(), head.clone().requires_grad_()
        losses = compute(states, weight)
        (losses * weights).sum().backward()
        outcomes.append((losses.detach(), states.grad, weight.grad))
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected)


def test_losses_are_fp32_whatever_the_model_is() -> None:
    hidden, head = torch.randn(5, 8).bfloat16(), torch.randn(11, 8).bfloat16()
    assert target_losses(hidden, head, torch.arange(5)).dtype == torch.float32
