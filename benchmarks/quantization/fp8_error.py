"""python -m benchmarks.quantization.fp8_error: what fp8 changes of a model's logits.

Four pairs of models are compared on the same tokens:

    bf16, against fp32    the scale of the others
    blocks in bf16        weights in blocks of 128 x 128, dequantised, against bf16
    fp8                   weights and activations in fp8, against bf16
    blocks in fp8         a checkpoint in blocks as fp8 runs it, against bf16

nano reads its own greedy solutions, a random model random tokens. A CPU is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any

import torch
import typer

from benchmarks.random_weights import SHAPES, engine_over, model_config
from benchmarks.tasks.puzzles import puzzle_problems
from gsr_engine import Engine, SamplingParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.demo.report import NANO
from gsr_engine.model.decoder import Decoder, LayerAttention, Mlp
from gsr_engine.model.fp8 import E4M3
from gsr_engine.model.linear import Fp8Linear, Linear
from gsr_engine.model.weights import dummy_decoder, load_decoder
from gsr_engine.text.problem_prompts import ProblemPrompts
from train.command import run_command

BLOCK = 128
_LARGEST = torch.finfo(E4M3).max


@dataclass(frozen=True, slots=True)
class Error:
    """How far the logits of one model are from those of another.

    Attributes:
        relative: the norm of all differences, over the norm of the other's logits.
        kl: from the other's distribution, nats per token.
        top1: share of tokens with the same most likely successor.
    """

    relative: float
    kl: float
    top1: float

    @classmethod
    def of(cls, logits: torch.Tensor, expected: torch.Tensor) -> Error:
        """Compare logits [tokens, vocabulary]."""
        logits, expected = logits.float(), expected.float()
        own, other = logits.log_softmax(1), expected.log_softmax(1)
        kl = (other.exp() * (other - own)).sum(1).mean()
        top1 = (logits.argmax(1) == expected.argmax(1)).float().mean()
        return cls(float((logits - expected).norm() / expected.norm()), float(kl), float(top1))


def blocks_of(weight: torch.Tensor, block: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in e4m3 and its fp32 scale for each block, as checkpoints in blocks store it."""
    values = weight.float()
    grid = [-(-size // block) for size in values.shape]
    padded = values.new_zeros(grid[0] * block, grid[1] * block)
    padded[: values.shape[0], : values.shape[1]] = values
    largest = padded.unflatten(1, (-1, block)).unflatten(0, (-1, block)).abs().amax((1, 3))
    scales = (largest / _LARGEST).clamp_min(1e-12)
    return (values / _spread(scales, block, values)).to(E4M3), scales


def through_blocks(weight: torch.Tensor) -> torch.Tensor:
    """A weight after `blocks_of` and back, in its dtype."""
    stored, scales = blocks_of(weight)
    return (stored.float() * _spread(scales, BLOCK, weight)).to(weight.dtype)


def _spread(scales: torch.Tensor, block: int, weight: torch.Tensor) -> torch.Tensor:
    """A scale for each value of a weight."""
    whole = scales.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return whole[: weight.shape[0], : weight.shape[1]]


def in_fp8(decoder: Decoder) -> Decoder:
    """The decoder with the linears of its layers in fp8, as the engine quantises them."""
    return _changed(decoder, lambda one: Fp8Linear.of(one.dense(), one.bias, one.gate))


def in_blocks(decoder: Decoder) -> Decoder:
    """The decoder with the linears of its layers dequantised from blocks."""
    return _changed(decoder, lambda one: Linear(through_blocks(one.dense()), one.bias, one.gate))


def _changed(decoder: Decoder, change: Callable[[Linear], Linear]) -> Decoder:
    layers = []
    for layer in decoder.layers:
        mlp = layer.mlp
        if isinstance(mlp, Mlp):  # experts stay as they are
            mlp = Mlp(change(mlp.gate_up), change(mlp.down))
        layers.append(replace(layer, qkv=change(layer.qkv), output=change(layer.output), mlp=mlp))
    return replace(decoder, layers=layers)


@dataclass(frozen=True, slots=True)
class _Recording(Decoder):
    """Keeps the last hidden states of every row that it computes."""

    kept: list[torch.Tensor] = field(default_factory=list)

    def hidden(
        self, token_ids: torch.Tensor, attention: LayerAttention, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """As in `Decoder`."""
        hidden = Decoder.hidden(self, token_ids, attention, None)
        self.kept.append(hidden)
        return hidden if rows is None else hidden[rows]


def all_logits(decoder: Decoder, prompts: Sequence[list[int]]) -> torch.Tensor:
    """Logits of each token of each prompt, [tokens, vocabulary], computed by the engine."""
    recording = _Recording(**{one.name: getattr(decoder, one.name) for one in fields(decoder)})
    options: dict[str, Any] = {"device": decoder.device.type, "kv_cache_gib": 0.2}
    with engine_over(recording, prefix_cache=False, cuda_graphs=False, **options) as engine:
        for ids in prompts:
            engine.generate([ids], SamplingParams(max_tokens=1, ignore_eos=True))
    return torch.cat([decoder.logits(hidden) for hidden in recording.kept])


def errors_of(
    bf16: Decoder, prompts: Sequence[list[int]], fp32: Decoder | None = None
) -> dict[str, Error]:
    """What the ways to compute a model change; without `fp32` bf16 itself is not compared."""
    found, expected = {}, all_logits(bf16, prompts)
    if fp32 is not None:
        found["bf16, against fp32"] = Error.of(expected, all_logits(fp32, prompts))
    for name, make in (
        ("blocks in bf16", in_blocks),
        ("fp8", in_fp8),
        ("blocks in fp8", lambda decoder: in_fp8(in_blocks(decoder))),
    ):
        found[name] = Error.of(all_logits(make(bf16), prompts), expected)
    return found


def _nano(tokens: int) -> tuple[Decoder, Decoder, list[list[int]]]:
    config = ModelConfig.from_folder(NANO)
    fp32, bf16 = (load_decoder(NANO, config, dtype) for dtype in (torch.float32, torch.bfloat16))
    greedy = SamplingParams(max_tokens=256, temperature=0.0)
    prompts: list[list[int]] = []
    with Engine.from_pretrained(NANO, device="cpu", kv_cache_gib=0.2) as engine:
        for puzzle in puzzle_problems("test", seed=5, count=tokens):
            asked = ProblemPrompts(engine.prompts, puzzle.text).direct
            prompts.append(asked + engine.generate([asked], greedy)[0].completions[0].token_ids)
            if sum(map(len, prompts)) >= tokens:
                break
    return fp32, bf16, prompts


def _random(shape: str, tokens: int) -> tuple[Decoder, Decoder, list[list[int]]]:
    config = model_config(shape)
    fp32, bf16 = (dummy_decoder(config, dtype) for dtype in (torch.float32, torch.bfloat16))
    generator = torch.Generator().manual_seed(0)
    return fp32, bf16, [torch.randint(config.vocab_size, (tokens,), generator=generator).tolist()]


def main(
    model: Annotated[str, typer.Argument(help=f"nano, or {', '.join(SHAPES)}.")] = "nano",
    tokens: Annotated[int, typer.Option(min=2, help="Tokens that are compared.")] = 256,
) -> None:
    """Print what fp8 changes of a model's logits."""
    fp32, bf16, prompts = _nano(tokens) if model == "nano" else _random(model, tokens)
    print(f"{model}, {sum(map(len, prompts))} tokens")
    print(f"{'':20}{'relative':>10}{'KL':>12}{'top-1':>8}")
    for name, error in errors_of(bf16, prompts, fp32).items():
        print(f"{name:20}{error.relative:10.4f}{error.kl:12.2e}{error.top1:8.3f}", flush=True)


if __name__ == "__main__":
    run_command("fp8_error", lambda: typer.run(main))
