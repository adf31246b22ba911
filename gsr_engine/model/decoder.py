"""One decoder for Llama 3, Mistral, Qwen2/2.5 and Qwen3: they differ by flags only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from csrc_triton import rms_norm
from gsr_engine.checkpoint.model_config import ModelConfig
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

        Every row attends to all of its segment's context and causally to its own segment. All KV
        of the step is written before any is read. Padding rows return any finite values.

        Args:
            layer: index of the layer, whose KV is written and read.
            qkv: [N, num_heads + 2 num_kv_heads, head_dim]: queries, keys and values, before
                rotation, of the rows of the batch given to `begin`. It may be overwritten.
            q_norm: [head_dim], the weight of the norm of every query before its rotation, or None.
            k_norm: likewise for keys; None exactly if `q_norm` is None.
        """


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v are one product, gate, up and their activation another."""

    input_norm: torch.Tensor
    qkv: Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class Decoder:
    """The model: token ids and positions in, logits out, attention behind an interface."""

    config: ModelConfig
    embedding: torch.Tensor
    layers: list[Layer]
    final_norm: torch.Tensor
    head: Linear

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, activations and KV."""
        return self.embedding.dtype

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
        eps = self.config.rms_norm_eps
        residual = self.embedding[token_ids]
        hidden = rms_norm(residual, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers):
            if index:
                hidden, residual = rms_norm(hidden, layer.input_norm, eps, residual)
            qkv = layer.qkv(hidden).view(hidden.shape[0], -1, self.config.head_dim)
            attended = attention.forward(index, qkv, layer.q_norm, layer.k_norm)
            hidden = layer.output(attended.flatten(1))
            hidden, residual = rms_norm(hidden, layer.post_norm, eps, residual)
            hidden = layer.down(layer.gate_up(hidden))
        if rows is not None:  # before the norm: only rows with logits need it
            hidden, residual = hidden[rows], residual[rows]
        hidden, _ = rms_norm(hidden, self.final_norm, eps, residual)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [M, vocab_size], in the model's dtype, of hidden states [M, hidden_size]."""
        return self.head(hidden)
