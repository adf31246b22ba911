"""Fp8: is it right on this chip, what it changes, and its products against bf16.

The products are those of a layer of Qwen2.5-7B, at the rows of decode steps and of prefills.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import random_prompts
from benchmarks.kernels.timing import seconds
from benchmarks.quantization.fp8_error import errors_of, in_fp8
from benchmarks.random_weights import engine_over, model_config
from gsr_engine import SamplingParams
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.fp8 import fp8_support, quantize_rows
from gsr_engine.model.linear import Fp8Linear, Linear
from gsr_engine.model.weights import dummy_decoder

_CLOSE = 0.01
"""Largest error of a product against the same quantised numbers in fp32; bf16 rounds by 0.002."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """The work.

    Attributes:
        shape: of the model whose logits are compared.
        tokens: that are compared.
        rows: of the products: decode steps, then prefills.
        products: outputs and inputs.
    """

    shape: str = "0.5b"
    tokens: int = 512
    rows: tuple[int, ...] = (1, 64, 256, 8192)
    products: tuple[tuple[int, int], ...] = (
        *((4608, 3584), (3584, 3584)),
        *((37_888, 3584), (3584, 18_944)),
    )


_TINY = _Sizes(shape="tiny", tokens=20, rows=(1, 3), products=((64, 32),))


def run(setting: Setting, record: Record) -> None:
    """First whether it is right, then what it changes, then how fast it is."""
    if setting.on_gpu and (reason := fp8_support(torch.device(setting.device))):
        record.add("fp8", "all", skipped=f"fp8 {reason}")
        return
    sizes = _TINY if setting.tiny else _Sizes()
    for rows in sizes.rows:
        for shape in sizes.products:
            case = f"{shape[0]} x {shape[1]}, {rows} rows"
            record.attempt("fp8 products", case, partial(_product, rows, shape, setting.device))
    record.attempt("fp8 logits", sizes.shape, partial(_logits, sizes, setting, record))


@torch.inference_mode()
def _product(rows: int, shape: tuple[int, int], device: str) -> Row:
    """An error against fp32, and microseconds with and without quantising the rows."""
    outputs, inputs = shape
    x = torch.randn(rows, inputs, device=device).bfloat16()
    weight = (torch.randn(shape, device=device) * inputs**-0.5).bfloat16()
    bias = torch.randn(outputs, device=device).bfloat16()
    plain, fp8 = Linear(weight, bias), Fp8Linear.of(weight, bias)
    quantised, scales = quantize_rows(x)
    expected = torch.nn.functional.linear(quantised.float() * scales, fp8.dense(), bias.float())
    error = float((fp8(x) - expected).norm() / expected.norm())
    times = [1e6 * seconds(run, device) for run in (lambda: plain(x), lambda: fp8(x))]
    quantising = 1e6 * seconds(lambda: quantize_rows(x), device)
    return {
        "error": error,
        "bf16_us": times[0],
        "fp8_us": times[1],
        "of_it_quantising_us": quantising,
        "speedup": times[0] / times[1],
        "passed": error < _CLOSE,
    }


def _logits(sizes: _Sizes, setting: Setting, record: Record) -> None:
    setting.free_memory()
    config = model_config(sizes.shape)
    bf16 = dummy_decoder(config, torch.bfloat16, device=torch.device(setting.device))
    torch.manual_seed(0)
    prompts = random_prompts(1, sizes.tokens, config.vocab_size)
    for name, error in errors_of(bf16, prompts).items():
        figures = {"relative": error.relative, "kl": error.kl, "top1": error.top1}
        record.add("fp8 logits", f"{sizes.shape}, {name}", **figures)
    setting.free_memory()
    graphs = partial(_graphs, in_fp8(bf16), prompts, setting)
    record.attempt("fp8 graphs", sizes.shape, graphs)


def _graphs(fp8: Decoder, prompts: list[list[int]], setting: Setting) -> Row:
    """Whether decode steps that are replayed as graphs draw the same tokens."""
    params, drawn = SamplingParams(max_tokens=16, temperature=0.0, ignore_eos=True), []
    for graphs in (True, False):
        options = {"cuda_graphs": graphs, "kv_cache_gib": 0.2}
        with engine_over(fp8, device=setting.device, **options) as engine:
            drawn.append(engine.generate(prompts, params)[0].completions[0].token_ids)
    same = sum(one == other for one, other in zip(*drawn, strict=True))
    return {"tokens": len(drawn[0]), "same": same, "passed": same == len(drawn[0])}
