"""Transformers' `generate`: one static batch per phase, prompts padded on the left."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from benchmarks.peers.job import Generate, Job, JobResult, Loaded, do_job, serve
from benchmarks.peers.text_loss import Logits, text_loss


def sampling(n: int, tokens: int, *, draws: bool | None = None) -> GenerationConfig:
    """Fixed length; drawn at temperature 1 without truncation, or greedy.

    `draws` says which; None draws several streams, and is greedy for one.
    """
    draws = n > 1 if draws is None else draws
    drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if draws else {}
    return GenerationConfig(
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        num_return_sequences=n,
        pad_token_id=0,
        **{"do_sample": False, **drawn},
    )


def left_padded(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, [P, longest]."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def load(job: Job) -> Loaded:
    """The model for such jobs."""
    torch.set_num_threads(job.threads)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.dtype))
    model = model.to(job.device).eval()

    @torch.inference_mode()
    def logits_of(text: list[int]) -> Logits:
        logits: torch.Tensor = model(torch.tensor([text], device=job.device)).logits[0]
        return logits.float().cpu().numpy()

    return Loaded(_generate_with(model), _facts(), partial(text_loss, logits_of))


def run_on(model: PreTrainedModel, job: Job) -> JobResult:
    """Do a job with a model that is in memory, on its device."""
    return do_job(job, _generate_with(model), _facts())


def _facts() -> dict[str, str]:
    return {"transformers": version("transformers")}


def _generate_with(model: PreTrainedModel) -> Generate:
    @torch.inference_mode()
    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        ids, mask = (tensor.to(model.device) for tensor in left_padded(prompts))
        out = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=sampling(n, tokens)
        )
        # On a GPU this waits for the last of them.
        return int(out[:, ids.shape[1] :].cpu().numel())

    return generate


if __name__ == "__main__":
    serve(load)
