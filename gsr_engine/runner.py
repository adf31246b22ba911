"""Runs one step on the device: plan to tensors, model, draws."""

from __future__ import annotations

import torch

from gsr_engine.attention import AttentionBackend
from gsr_engine.batch import build_batch
from gsr_engine.model import Decoder
from gsr_engine.plan import StepPlan
from gsr_engine.sampler import Draws, Sampler


class Runner:
    """Executes step plans; keeps nothing of a request but working copies."""

    def __init__(self, decoder: Decoder, attention: AttentionBackend, padding_slot: int) -> None:
        self.decoder = decoder
        self._attention = attention
        self._padding_slot = padding_slot
        self._sampler = Sampler()
        # Plain fp32 products give a row the same bits whatever the other rows are once every thread
        # has at least 4 of them; prepacked ones and bf16 do so at any size (measured, on 1 and 2
        # threads).
        plain = decoder.dtype == torch.float32 and not decoder.head.is_prepacked
        self._row_multiple = 4 * torch.get_num_threads() if plain else 1

    def execute(self, plan: StepPlan) -> Draws:
        """Compute the plan's chunks and draw its tokens."""
        batch = build_batch(plan, self._row_multiple, self._padding_slot)
        self._attention.begin(batch)
        logits = self.decoder.forward(batch.token_ids, self._attention, batch.logit_rows)
        if not plan.draws:
            return Draws([], [])
        return self._sampler.draw(logits, batch.draw_rows, [sequence for _, sequence in plan.draws])

    def reset(self) -> None:
        """Drop what the attention kept between steps (working copies of streams that ended)."""
        self._attention.reset()
