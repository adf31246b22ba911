"""SGLang's offline engine on a GPU, in an environment of its own; its radix cache is on by default.

Its share of the memory and its batches are its defaults. No GPU has run it here: a stand-in for the
package tests what is asked of it.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import sglang

from benchmarks.peers.job import Job, Loaded, serve

# Of a context SGLang keeps a few tokens for itself. With less room it cuts the longest streams by a
# token, and refuses a prompt that all but fills it.
_KEPT = 8


def load(job: Job) -> Loaded:
    """The engine for such jobs; SGLang starts its scheduler in a process of its own."""
    engine = sglang.Engine(
        model_path=job.model,
        dtype=job.dtype,
        device=job.device,
        context_length=job.longest + _KEPT,
    )

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        params: dict[str, Any] = {
            "n": n,
            "temperature": 1.0 if n > 1 else 0.0,
            "max_new_tokens": tokens,
            # A length that the end of the stream could cut needs a penalty, which costs time.
            "min_new_tokens": 0 if job.ignore_eos else tokens,
            "ignore_eos": job.ignore_eos,
        }
        outputs = engine.generate(input_ids=prompts, sampling_params=params)
        return sum(int(output["meta_info"]["completion_tokens"]) for output in outputs)

    return Loaded(generate, {"sglang": version("sglang")})


if __name__ == "__main__":
    serve(load)
