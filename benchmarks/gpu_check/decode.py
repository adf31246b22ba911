"""How fast is a decode step of a 7B shape: against reading and multiplying everything once.

Streams join one engine until the largest batch is reached. Earlier streams go on, so contexts have
the given length or slightly more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.gpu_check.floor import Floor
from benchmarks.gpu_check.record import Record, Row
from benchmarks.gpu_check.setting import Setting
from benchmarks.gpu_check.steps import profile_steps, random_prompts, start_streams, time_steps
from benchmarks.kernels import measure_limits
from benchmarks.random_weights import engine_over, model_config
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import dummy_decoder
from gsr_engine.requests.generate import GenerateRequest

# The share of the floor that is asked of a step, up to this batch size.
_ASKED, _ASKED_TO = 0.72, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecodeWork:
    """The measurements of one shape.

    Attributes:
        shape: of the model.
        batches: numbers of streams, ascending.
        without_graphs: the batches that are also measured without graphs.
        profiled: the batches whose kernels are listed.
        prompt: tokens of a prompt.
        steps: timed steps.
        kv_gib: memory for KV.
    """

    shape: str = "7b"
    batches: tuple[int, ...] = (1, 8, 64, 256)
    without_graphs: tuple[int, ...] = (8,)
    profiled: tuple[int, ...] = (1, 64)
    prompt: int = 1024
    steps: int = 32
    kv_gib: float = 24.0


_TINY = _DecodeWork(
    shape="tiny",
    batches=(1, 3),
    without_graphs=(1,),
    profiled=(3,),
    prompt=20,
    steps=3,
    kv_gib=0.05,
)


def run(setting: Setting, record: Record) -> None:
    """With graphs first, then without."""
    measure_limits(setting.device)  # while the memory is free
    work = _TINY if setting.tiny else _DecodeWork()
    record.attempt("decode", work.shape, partial(_run_shape, work, setting, record))


def _run_shape(work: _DecodeWork, setting: Setting, record: Record) -> None:
    setting.free_memory()
    config, device = model_config(work.shape), torch.device(setting.device)
    decoder = dummy_decoder(config, torch.bfloat16, device=device)
    _grow(work, decoder, setting, record, graphs=True)
    setting.free_memory()
    _grow(work, decoder, setting, record, graphs=False)


def _grow(
    work: _DecodeWork, decoder: Decoder, setting: Setting, record: Record, *, graphs: bool
) -> None:
    batches = work.batches if graphs else work.without_graphs
    options = {"cuda_graphs": graphs, "prefix_cache": False, "kv_cache_gib": work.kv_gib}
    tokens = work.steps * (len(batches) + 8) + work.batches[-1]
    running: list[GenerateRequest] = []
    with engine_over(decoder, device=setting.device, **options) as engine:

        def measure(batch: int) -> Row:
            new = random_prompts(batch - len(running), work.prompt, decoder.config.vocab_size)
            running.extend(start_streams(engine, new, tokens))
            times = time_steps(engine, work.steps)
            context = sum(work.prompt + len(r.streams[0].segment) for r in running)
            floor = Floor.of(decoder.config, decoder.dtype, batch, context, context)
            row = floor.beside(times.ms, setting.device)
            if graphs and batch <= _ASKED_TO:
                case = f"share of the floor, {work.shape}, batch {batch}"
                record.target(case, asked=_ASKED, measured=row["of_floor"])
            if graphs and batch in work.profiled:
                title = f"{work.shape}, batch {batch}"
                _keep(setting, title, profile_steps(engine, 5, setting.device))
            return {**row, "host_ms": times.host_ms, "tokens_per_s": 1e3 * batch / times.ms}

        for batch in batches:
            case = f"{work.shape}, batch {batch}, graphs {'on' if graphs else 'off'}"
            record.attempt("decode", case, partial(measure, batch))


def _keep(setting: Setting, title: str, text: str) -> None:
    with (setting.out / "profile.txt").open("a", encoding="utf-8") as file:
        file.write(f"{title}\n{text}\n\n")
