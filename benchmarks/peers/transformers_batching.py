"""Transformers' continuous batching: pages, shared prefixes, mixed steps.

Every call starts a new manager, which takes about a second. One manager serves one way of sampling
only.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig

from benchmarks.peers.job import Job, Loaded, serve
from benchmarks.peers.transformers_generate import sampling

_PAGE = 16


def batching(streams: int, longest: int, **more: bool) -> ContinuousBatchingConfig:
    """For at most so many streams, each of at most so many tokens; `more` are other fields."""
    # Its default takes a share of a GPU's memory; here it gets what the streams need at most.
    return ContinuousBatchingConfig(
        page_size=_PAGE,
        num_blocks=(streams + 1) * (longest // _PAGE + 2),
        max_batch_tokens=max(2048, streams),
        use_cuda_graph=False,
        use_async_batching=False,
        **more,
    )


def load(job: Job) -> Loaded:
    """The model for such jobs."""
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=getattr(torch, job.dtype), attn_implementation="sdpa"
    ).eval()
    streams = max(job.num_streams, len(job.refine_prompts))
    config = batching(streams, job.longest)

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        settings = sampling(n, tokens)
        settings.min_new_tokens, settings.eos_token_id = None, -1  # this ignores end tokens
        outputs = model.generate_batch(
            inputs=prompts, generation_config=settings, continuous_batching_config=config
        )
        return sum(len(output.generated_tokens) for output in outputs.values())

    return Loaded(generate, {"transformers": version("transformers")})


if __name__ == "__main__":
    serve(load)
