"""How far a decoder is from the fp32 one over some texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F

from benchmarks.peers.text_loss import next_token_loss, text_loss
from csrc_triton import PagedSpan, PrefillPlan
from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.sharing import Sharing
from gsr_engine.kv.segments import pages_for
from gsr_engine.model.decoder import Decoder

Texts = Mapping[str, Sequence[list[int]]]
"""The contexts of each text, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far a decoder is from the fp32 one.

    Attributes:
        loss: mean of -log p of the next token, in nats.
        change: of the loss against fp32.
        change_by_text: the same of each text alone.
        kl: mean KL divergence of the distribution of the next token from that of fp32, in nats.
        top1: share of the tokens for which both have the same most likely next token.
    """

    loss: float
    change: float
    change_by_text: dict[str, float]
    kl: float
    top1: float


@torch.inference_mode()
def hidden_states(decoder: Decoder, token_ids: list[int]) -> torch.Tensor:
    """The normalised last hidden states of all tokens of one context, by the engine's attention."""
    config, length = decoder.config, len(token_ids)
    pages = list(range(pages_for(length)))
    cache = KVCache(config, len(pages), decoder.dtype, decoder.device)
    sharing = Sharing(None, config.num_heads, config.num_kv_heads)
    attention = PagedAttention(config, cache, length, sharing)
    plan = PrefillPlan.from_segments([(PagedSpan(pages, 0, length), [])])
    slots = positions = torch.arange(length)
    attention.bind(positions, slots, None, plan)
    return decoder.hidden(torch.tensor(token_ids), attention, None)


def decoder_loss(decoder: Decoder, contexts: Sequence[list[int]]) -> float:
    """Mean loss of the next token over contexts of one length."""
    return text_loss(
        lambda one: decoder.logits(hidden_states(decoder, one)).float().numpy(), contexts
    )


class Fp32Reference:
    """The fp32 decoder over the texts; only its hidden states are kept, logits are large."""

    def __init__(self, decoder: Decoder, texts: Texts) -> None:
        self._decoder, self._texts = decoder, texts
        self._hidden = {
            name: [hidden_states(decoder, one) for one in contexts]
            for name, contexts in texts.items()
        }

    def distance(self, decoder: Decoder) -> Distance:
        """How far another decoder of the same model is."""
        found = {
            name: [
                self._compare(decoder, one, hidden)
                for one, hidden in zip(contexts, self._hidden[name], strict=True)
            ]
            for name, contexts in self._texts.items()
        }
        every = [one for rows in found.values() for one in rows]
        return Distance(
            loss=fmean(row[0] for row in every),
            change=fmean(row[0] - row[1] for row in every),
            change_by_text={
                name: fmean(row[0] - row[1] for row in rows) for name, rows in found.items()
            },
            kl=fmean(row[2] for row in every),
            top1=fmean(row[3] for row in every),
        )

    @torch.inference_mode()
    def _compare(
        self, decoder: Decoder, token_ids: list[int], hidden: torch.Tensor
    ) -> tuple[float, float, float, float]:
        """Loss, fp32's loss, KL, top-1 agreement of one context."""
        ours = decoder.logits(hidden_states(decoder, token_ids))
        exact = self._decoder.logits(hidden)
        losses = [next_token_loss(logits.numpy(), token_ids) for logits in (ours, exact)]
        agree = float((ours.argmax(-1) == exact.argmax(-1)).float().mean())
        kl = F.kl_div(
            ours.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none"
        )
        return losses[0], losses[1], float(kl.sum(-1).mean()), agree
