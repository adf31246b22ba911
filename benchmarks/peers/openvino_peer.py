"""OpenVINO GenAI's `ContinuousBatchingPipeline`, in an environment of its own.

Prefix caching is on, dynamic quantisation is off; compute and KV are in the job's dtype.
optimum-intel exports the model once, into a folder beside the environment.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai

from benchmarks.peers.job import Job, Loaded, serve

_PRECISIONS = {"bfloat16": "bf16", "float32": "f32"}


def exported(model: Path) -> Path:
    """The folder of the exported model; the first call makes it."""
    folder = Path(sys.prefix).parent / "models" / model.name
    if not (folder / "openvino_model.xml").exists():
        command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
        options = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
        subprocess.run(  # noqa: S603
            [*command, "--model", str(model), *options, str(folder)], check=True
        )
    return folder


def settings(job: Job) -> dict[str, object]:
    """The device's properties."""
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


def load(job: Job) -> Loaded:
    """The pipeline for such jobs."""
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = True
    scheduler.max_num_batched_tokens = 8192
    scheduler.max_num_seqs = max(256, job.num_streams)
    scheduler.cache_size = max(1, round(job.kv_gib))
    folder = exported(Path(job.model))
    pipeline = genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", settings(job))

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        tensors = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        config = pipeline.get_config()  # it knows the model's end tokens
        fix(config, n, tokens, job.ignore_eos)
        results = pipeline.generate(tensors, [config] * len(prompts))
        return sum(len(ids) for result in results for ids in result.m_generation_ids)

    return generate, {"openvino-genai": version("openvino-genai")}


if __name__ == "__main__":
    serve(load)
