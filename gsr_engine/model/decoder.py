"""One decoder for all families: they differ by flags and by the kinds of their layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from csrc_triton import rms_norm
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.config import Quantization
from gsr_engine.model.linear import Linear


class LayerAttention(Protocol):
    """What the layers need of attention; the step must be laid out before (`begin`)."""

    def forward(
        self,
        layer: int,
        qkv: torch.Tensor,
        q_norm: torch.Tensor | None,
        k_norm: torch.Tensor | None,
    ) -> torch.Tensor:
        """Rotate q and k, write k and v to their slots, attend; returns [N, num_heads, head_dim].

        Every row attends to all of its segment's context and causally to its own segment; in a
        layer with a window, to those tokens of them that are less than the window before it. All
        KV of the step is written before any is read. Padding rows return any finite values.

        Args:
            layer: index of the layer, whose KV is written and read.
            qkv: [N, num_heads + 2 num_kv_heads, head_dim]: queries, keys and values, before
                rotation, of the rows of the batch given to `begin`. It may be overwritten.
            q_norm: the weight of the norm of the queries before their rotation: [head_dim] of each
                head, or [num_heads · head_dim] of all heads together. None: no norm.
            k_norm: likewise for keys; None exactly if `q_norm` is None.
        """


class FeedForward(Protocol):
    """What a layer has behind its attention: one network, or experts."""

    @property
    def bytes_per_row(self) -> int:
        """What the products of one row read of the weights."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, hidden_size] like the input."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """One gated network; gate, up and activation are one product."""

    gate_up: Linear
    down: Linear

    @property
    def bytes_per_row(self) -> int:
        """All of them."""
        return self.gate_up.weight_bytes + self.down.weight_bytes

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[N, hidden_size] like the input."""
        return self.down(self.gate_up(hidden))


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v are one product.

    A family has norms before attention and feed-forward network, behind them, or both.
    """

    before_attention: torch.Tensor | None
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Linear
    after_attention: torch.Tensor | None
    before_mlp: torch.Tensor | None
    mlp: FeedForward
    after_mlp: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """The model: token ids and positions in, logits out, attention behind an interface.

    Attributes:
        dtype: of activations and KV, and of weights that are not quantised.
        embedding: [vocab_size, hidden_size]; beside quantised weights it may take fewer bits than
            the dtype.
        embedding_scale: multiplies embeddings; rounded to the dtype.
        quantization: what layers and head multiply in.
    """

    config: ModelConfig
    dtype: torch.dtype
    embedding: torch.Tensor
    layers: list[Layer]
    final_norm: torch.Tensor
    head: Linear
    embedding_scale: float = 1.0
    quantization: Quantization = "none"

    @property
    def device(self) -> torch.device:
        """Where weights, activations and KV are."""
        return self.embedding.device

    @torch.inference_mode()
    def hidden(
        self,
        token_ids: torch.Tensor,
        attention: LayerAttention,
        rows: torch.Tensor | None,
    ) -> torch.Tensor:
        """Normalised last hidden states, [M, hidden_size].

        Args:
            token_ids: int64 [N], one per row of the batch. `attention` must have begun with the
                same batch, which also holds positions and KV slots.
            attention: the attention of every layer.
            rows: int64 [M], the rows to return; None returns all N.
        """
        # What a layer adds to the residual stream is added by the norm that follows it.
        added: torch.Tensor | None = None
        residual = self._embed(token_ids)
        for index, layer in enumerate(self.layers):
            hidden, residual = self._add_and_norm(added, residual, layer.before_attention)
            qkv = layer.qkv(hidden).view(hidden.shape[0], -1, self.config.head_dim)
            attended = attention.forward(index, qkv, layer.q_norm, layer.k_norm)
            added = self._norm(layer.output(attended.flatten(1)), layer.after_attention)
            hidden, residual = self._add_and_norm(added, residual, layer.before_mlp)
            added = self._norm(layer.mlp(hidden), layer.after_mlp)
        if rows is not None:  # before the norm: only rows with logits need it
            residual = residual[rows]
            added = None if added is None else added[rows]
        return self._add_and_norm(added, residual, self.final_norm)[0]

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [M, vocab_size], in the model's dtype, of hidden states [M, hidden_size]."""
        return self.head(hidden)

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        embedded = self.embedding[token_ids].to(self.dtype)
        return embedded if self.embedding_scale == 1.0 else embedded * self.embedding_scale

    def _norm(self, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return x if weight is None else rms_norm(x, weight, self.config.rms_norm_eps)

    def _add_and_norm(
        self, added: torch.Tensor | None, residual: torch.Tensor, weight: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum, normalised if there is a weight, and the sum itself: the new residual."""
        if weight is None:
            total = residual if added is None else added + residual
            return total, total
        if added is None:
            return self._norm(residual, weight), residual
        return rms_norm(added, weight, self.config.rms_norm_eps, residual)
