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


def test_the_heads_gradient_in_bf16_does_not_depend_on_the_chunks() -> None:
    """Its error is that of one rounding; the hidden states' stays within twice that."""
    generator = torch.Generator().manual_seed(0)
    words, targets = 512, 512
    hidden = torch.randn(targets, 64, generator=generator).bfloat16()
    head = (torch.randn(words, 64, generator=generator) / 8).bfloat16()
    wanted = (torch.rand(targets, generator=generator) ** 3 * words).long()
    exact = [one.double().requires_grad_() for one in (hidden, head)]
    F.cross_entropy(exact[0] @ exact[1].T, wanted).backward()
    errors = []
    for chunks in (1, 4, 64):
        got = [one.clone().requires_grad_() for one in (hidden, head)]
        losses = target_losses(got[0], got[1], wanted, words * targets // chunks)
        (losses.sum() / targets).backward()
        pairs = zip(got, exact, strict=True)
        errors.append([float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs])  # type: ignore[operator, union-attr]
    alone = errors[0]
    assert max(alone) < 2.5e-3
    assert all(to_head < 1.1 * alone[1] for _, to_head in errors)
    assert all(to_hidden < 2 * alone[0] for to_hidden, _ in errors)


def test_a_frozen_head_has_no_gradient() -> None:
    hidden, head = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    target_losses(hidden, head, torch.arange(5), 11).sum().backward()
    assert hidden.grad is not None
    assert head.grad is None
