"""A hand-written static-batch decode loop: the yardstick for the engine's overhead on small models.

The loop has no pages, no scheduler, no sharing and no per-stream parameters. It has one contiguous
KV cache, one batch that starts and ends together, and temperature sampling. It reads the engine's
weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from gsr_engine.model.decoder import Decoder, Layer
from gsr_engine.model.rope import rope_table


class StaticLoop:
    """Samples `num_tokens` tokens for every row of a batch of equally long prompts."""

    def __init__(self, decoder: Decoder, length: int) -> None:
        self._decoder = decoder
        config = decoder.config
        table = rope_table(config.rope, config.head_dim, length)
        cos, sin = table.chunk(2, dim=1)
        self._cos, self._sin = torch.cat([cos, cos], 1), torch.cat([sin, sin], 1)

    @torch.inference_mode()
    def run(self, prompts: torch.Tensor, n: int, num_tokens: int) -> torch.Tensor:
        """Sample at temperature 1; prompts [P, L] are prefilled once, their KV is copied n times.

        Returns the tokens [P * n, num_tokens].
        """
        length = prompts.shape[1]
        total = length + num_tokens
        logits, prefix = self._prefill(prompts)
        rows = prompts.shape[0] * n
        config = self._decoder.config
        cache = torch.zeros(
            len(prefix), 2, rows, config.num_kv_heads, total, config.head_dim, dtype=logits.dtype
        )
        for layer, pair in enumerate(prefix):
            for part, tensor in enumerate(pair):
                cache[layer, part, :, :, :length] = tensor.repeat_interleave(n, dim=0)
        logits = logits.repeat_interleave(n, dim=0)
        drawn = []
        for position in range(length, total):
            token = torch.multinomial(torch.softmax(logits, dim=1), 1)
            drawn.append(token)
            if position + 1 < total:
                logits = self._step(token[:, 0], position, cache)
        return torch.cat(drawn, dim=1)

    def _prefill(
        self, prompts: torch.Tensor
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        decoder, length = self._decoder, prompts.shape[1]
        hidden, prefix = decoder.embedding[prompts], []
        for layer in decoder.layers:
            q, k, v = self._project(layer, hidden, self._cos[:length], self._sin[:length])
            prefix.append((k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            hidden = self._finish(layer, hidden, mixed)
        return self._logits(hidden[:, -1]), prefix

    def _step(self, token: torch.Tensor, position: int, cache: torch.Tensor) -> torch.Tensor:
        decoder = self._decoder
        hidden = decoder.embedding[token][:, None]
        where = slice(position, position + 1)
        for index, layer in enumerate(decoder.layers):
            q, k, v = self._project(layer, hidden, self._cos[where], self._sin[where])
            cache[index, 0, :, :, position] = k[:, :, 0]
            cache[index, 1, :, :, position] = v[:, :, 0]
            keys, values = cache[index, :, :, :, : position + 1]
            # Plain products: at one query per row they beat scaled_dot_product_attention here.
            heads, dim = keys.shape[1], keys.shape[3]
            grouped = q.view(q.shape[0], heads, -1, dim) * dim**-0.5
            weights = torch.softmax(grouped @ keys.mT, dim=-1)
            hidden = self._finish(layer, hidden, (weights @ values).view(q.shape))
        return self._logits(hidden[:, 0])

    def _project(
        self, layer: Layer, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = self._decoder.config
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.before_attention, config.rms_norm_eps)
        qkv = layer.qkv(normed).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        bounds = [config.num_heads, config.num_heads + config.num_kv_heads]
        q, k, v = qkv.tensor_split(bounds, dim=1)
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    def _finish(self, layer: Layer, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        hidden = hidden + layer.output(mixed.transpose(1, 2).flatten(2))
        eps = self._decoder.config.rms_norm_eps
        normed = F.rms_norm(hidden, hidden.shape[-1:], layer.before_mlp, eps)
        return hidden + layer.mlp(normed)

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        decoder = self._decoder
        eps = decoder.config.rms_norm_eps
        return decoder.head(F.rms_norm(hidden, hidden.shape[-1:], decoder.final_norm, eps)).float()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
