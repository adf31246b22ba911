"""OpenVINO GenAI's `ContinuousBatchingPipeline`, in an environment of its own.

Prefix caching is on. Compute and KV are in the job's dtype, and dynamic quantisation is off. In 8
bits everything is at OpenVINO's defaults: weights of `--weight-format int8`, and what the device
makes of activations and KV. optimum-intel exports each model once, into a folder beside the
environment. The loss is that of the exported model with the same properties, without GenAI's
scheduler.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai

from benchmarks.peers.job import Job, Loaded, serve
from benchmarks.peers.text_loss import Logits, text_loss

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}


def exported(model: Path, quantization: str | None) -> Path:
    """The folder of the exported model; the first call makes it."""
    weights = quantization or "fp16"
    name = f"{model.name}-{quantization}" if quantization else model.name
    folder = Path(sys.prefix).parent / "models" / name
    if not (folder / "openvino_model.xml").exists():
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        options = ["--task", "text-generation-with-past", "--weight-format", weights]
        subprocess.run(  # noqa: S603
            [*command, "--model", str(model), *options, str(folder)], check=True
        )
    return folder


def settings(job: Job) -> dict[str, object]:
    """The device's properties."""
    if job.quantization:
        return {"INFERENCE_NUM_THREADS": job.threads}
    precision = _PRECISIONS[job.dtype]
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "INFERENCE_NUM_THREADS": job.threads,
    }


def fix(config: genai.GenerationConfig, n: int, tokens: int, ignore_eos: bool) -> None:
    """Fixed length; greedy for one stream, temperature 1 for several."""
    config.max_new_tokens = config.min_new_tokens = tokens
    config.ignore_eos = ignore_eos
    config.num_return_sequences = n
    config.do_sample = n > 1
    if n > 1:
        config.temperature, config.top_p, config.top_k = 1.0, 1.0, sys.maxsize


def loss(folder: Path, properties: dict[str, object], texts: list[list[int]]) -> float:
    """The mean loss of texts by the exported model, which is compiled for them alone."""
    request = (
        ov.Core()
        .compile_model(folder / "openvino_model.xml", "CPU", properties)
        .create_infer_request()
    )

    def logits_of(text: list[int]) -> Logits:
        request.reset_state()
        inputs = {
            "input_ids": np.array([text], dtype=np.int64),
            "attention_mask": np.ones((1, len(text)), dtype=np.int64),
            "position_ids": np.arange(len(text), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        logits: Logits = request.infer(inputs)["logits"][0]
        return logits

    return text_loss(logits_of, texts)


def load(job: Job) -> Loaded:
    """The pipeline for such jobs."""
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.max_num_batched_tokens = 8192
    scheduler.max_num_seqs = max(256, job.num_streams)
    scheduler.cache_size = max(1, round(job.kv_gib))
    folder, properties = exported(Path(job.model), job.quantization), settings(job)
    pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        tensors = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        config = pipeline.get_config()  # it knows the model's end tokens
        fix(config, n, tokens, job.ignore_eos)
        results = pipeline.generate(tensors, [config] * len(prompts))
        return sum(len(ids) for result in results for ids in result.m_generation_ids)

    facts = {"openvino-genai": version("openvino-genai")}
    return Loaded(generate, facts, partial(loss, folder, properties))


if __name__ == "__main__":
    serve(load)
