"""One decoder for Llama 3, Mistral, Qwen2/2.5 and Qwen3: they differ by flags only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from csrc_triton import rms_norm, swiglu
from gsr_engine.attention import AttentionBackend
from gsr_engine.config import ModelConfig
from gsr_engine.layers import Linear


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer; q, k, v are one product, so are gate and up."""

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

    @torch.inference_mode()
    def forward(
        self,
        token_ids: torch.Tensor,
        positions: torch.Tensor,
        slot_mapping: torch.Tensor,
        attention: AttentionBackend,
        logit_rows: torch.Tensor,
    ) -> torch.Tensor:
        """Logits, fp32 [M, vocab_size], of `logit_rows` [M].

        Rows are N tokens of any number of segments, int64 [N] each; `attention` was told of the
        same rows by `begin` and writes their KV to `slot_mapping`.
        """
        eps = self.config.rms_norm_eps
        residual = self.embedding[token_ids]
        hidden = rms_norm(residual, self.layers[0].input_norm, eps)
        for index, layer in enumerate(self.layers):
            if index:
                hidden, residual = rms_norm(hidden, layer.input_norm, eps, residual)
            q, k, v = self._project(layer, hidden)
            attended = attention.forward(index, q, k, v, positions, slot_mapping)
            hidden = layer.output(attended.flatten(1))
            hidden, residual = rms_norm(hidden, layer.post_norm, eps, residual)
            hidden = layer.down(swiglu(layer.gate_up(hidden)))
        hidden, _ = rms_norm(hidden[logit_rows], self.final_norm, eps, residual[logit_rows])
        return self.head(hidden).float()

    def _project(
        self, layer: Layer, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = self.config
        qkv = layer.qkv(hidden).view(hidden.shape[0], -1, config.head_dim)
        values = config.num_heads + config.num_kv_heads
        q, k, v = qkv.tensor_split([config.num_heads, values], dim=1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = rms_norm(q, layer.q_norm, config.rms_norm_eps)
            k = rms_norm(k, layer.k_norm, config.rms_norm_eps)
        return q, k, v
