"""selfRef@k as a good loop by hand: plain torch, a static KV cache per stream, SDPA, CUDA graphs.

Nothing is shared: each candidate holds its own copy of the problem's KV, and a refinement computes
its prompt again. All streams have prompts of one length and draw as many tokens, so a step needs no
host: it feeds its tokens to the next, and one mask serves every row. Tokens are greedy, which is
cheaper than drawing. The weights are the decoder's, and it must be a Qwen2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gsr_engine.model.decoder import Decoder, Layer, Mlp
from gsr_engine.model.rope import rope_table

# A step reads its cache up to the next multiple of so many tokens; each has a graph of its own.
_BUCKET = 256
# The fused kernel that takes a mask; a CPU has the other one.
_MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Of a layer: its index, q [R, N, Hq, D], k and v [R, N, Hkv, D], rotated, to [R, N, Hq, D]."""


@dataclass(frozen=True, slots=True)
class _Weights:
    """The weights of a layer as plain matrices [out, in]."""

    layer: Layer
    qkv: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: Layer) -> _Weights:
        """Those of a layer with one gated network.

        Raises:
            TypeError: it has experts.
        """
        if not isinstance(layer.mlp, Mlp):
            raise TypeError("the loop by hand has no experts")
        products = layer.qkv, layer.output, layer.mlp.gate_up, layer.mlp.down
        return cls(layer, *(linear.dense() for linear in products))


class HandWritten:
    """The loop, with caches for a number of streams of some length, prompts included.

    On a GPU its steps are captured when it is made.
    """

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, streams: int, length: int) -> None:
        model, self._decoder = decoder.config, decoder
        self._model, self._layers = model, [_Weights.of(layer) for layer in decoder.layers]
        self._head = decoder.head.dense()
        whole = -(-length // _BUCKET) * _BUCKET
        shape = (2, model.num_layers, streams, model.num_kv_heads, whole, model.head_dim)
        # Zeros: what no token has written yet is masked, but must be finite.
        self._keys, self._values = torch.zeros(shape, dtype=decoder.dtype, device=decoder.device)
        table = rope_table(model.layers[0].rope, model.head_dim, whole).to(decoder.device)
        self._cos, self._sin = table.to(decoder.dtype).chunk(2, dim=1)
        self._tokens = torch.zeros(streams, dtype=torch.int64, device=decoder.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=decoder.device)
        self._drawn = torch.zeros(streams, whole, dtype=torch.int64, device=decoder.device)
        self._steps = [self._captured(end) for end in range(_BUCKET, whole + 1, _BUCKET)]

    @torch.inference_mode()
    def generate(self, prompts: Sequence[list[int]], n: int, tokens: int) -> list[list[int]]:
        """Greedy tokens of `n` streams for each prompt, side by side; prompts have one length."""
        length, device = len(prompts[0]), self._tokens.device
        for index, prompt in enumerate(prompts):
            rows = slice(index * n, index * n + n)
            self._tokens[rows] = self._prefill(torch.tensor([prompt], device=device), rows)
        self._position.fill_(length)
        self._drawn[:, length] = self._tokens
        # The last token is drawn, and never computed.
        for place in range(length, length + tokens - 1):
            self._steps[place // _BUCKET]()
        drawn: list[list[int]] = self._drawn[:, length : length + tokens].tolist()
        return drawn

    def _captured(self, limit: int) -> Callable[[], None]:
        """A step that reads caches up to `limit`, as a graph where there is a GPU."""
        step = partial(self._decode, limit)
        if not self._tokens.is_cuda:
            return step
        self._position.zero_()
        step()  # creates the handles that a capture must not create
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay: Callable[[], None] = graph.replay
        return replay

    def _decode(self, limit: int) -> None:
        model, streams = self._model, len(self._tokens)
        group = model.num_heads // model.num_kv_heads
        seen = torch.arange(limit, device=self._tokens.device) <= self._position
        # Additive, and in the dtype of the queries: no layer has to convert it.
        mask = torch.zeros(limit, dtype=self._decoder.dtype, device=seen.device)
        mask = mask.masked_fill(~seen, -torch.inf).expand(streams, model.num_kv_heads, group, limit)

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[index], self._values[index]
            keys.index_copy_(2, self._position, k.transpose(1, 2))
            values.index_copy_(2, self._position, v.transpose(1, 2))
            # The query heads of a kv head are rows of one attention: no key is repeated.
            grouped = q.view(streams, model.num_kv_heads, group, -1)
            near = keys[:, :, :limit], values[:, :, :limit]
            with sdpa_kernel(_MASKED):
                out = F.scaled_dot_product_attention(grouped, *near, attn_mask=mask)
            return out.reshape(q.shape)

        self._tokens.copy_(self._forward(self._tokens[:, None], self._position, attend))
        self._position.add_(1)
        self._drawn.index_copy_(1, self._position, self._tokens[:, None])

    def _prefill(self, token_ids: Tensor, rows: slice) -> Tensor:
        """The token behind a prompt [1, N], whose KV goes to every one of `rows`."""
        length = token_ids.shape[1]

        def attend(index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            self._keys[index, rows, :, :length] = k
            self._values[index, rows, :, :length] = v
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            return out.transpose(1, 2)

        where = torch.arange(length, device=token_ids.device)
        return self._forward(token_ids, where, attend)

    def _forward(self, token_ids: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The most likely token behind the last of [R, N] tokens, by row."""
        model, eps = self._model, self._model.rms_norm_eps
        hidden = self._decoder.embedding[token_ids]
        heads = [model.num_heads, model.num_kv_heads, model.num_kv_heads]
        for index, one in enumerate(self._layers):
            x = _norm(hidden, one.layer.before_attention, eps)
            qkv = F.linear(x, one.qkv, one.layer.qkv.bias).unflatten(-1, (-1, model.head_dim))
            q, k, v = qkv.split(heads, dim=2)
            q, k = self._rotated((q, k), positions)
            attended = attend(index, q, k, v).flatten(2)
            hidden = hidden + F.linear(attended, one.output)
            gate, up = F.linear(_norm(hidden, one.layer.before_mlp, eps), one.gate_up).chunk(2, -1)
            hidden = hidden + F.linear(F.silu(gate) * up, one.down)
        last = _norm(hidden[:, -1], self._decoder.final_norm, eps)
        return F.linear(last, self._head).argmax(-1)

    def _rotated(self, heads: Sequence[Tensor], positions: Tensor) -> Iterator[Tensor]:
        cos, sin = (table[positions][:, None] for table in (self._cos, self._sin))
        for x in heads:
            one, other = x.chunk(2, dim=-1)
            yield torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)


def _norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)
