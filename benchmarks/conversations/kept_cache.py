"""Transformers with a `DynamicCache` that the caller keeps from turn to turn."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from benchmarks.oracle import TIE


def load_model(folder: Path) -> PreTrainedModel:
    """A checkpoint in fp32, with the attention that transformers chooses, not compiled."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


class KeptCache:
    """One conversation, in a plain loop around the model's forward: faster than `generate`.

    It is fed the tokens of a given answer, so that its cache holds the same conversation. At each
    of them it takes its own most likely token, as greedy decoding would, and compares.

    Attributes:
        seconds: of each call so far.
        differing: answer tokens so far that are not its own most likely token.
        beyond_ties: those of them whose logit is clearly below its best, by `TIE` or more.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = DynamicCache(config=model.config)
        self._fed = 0
        self.seconds: list[float] = []
        self.differing = 0
        self.beyond_ties = 0

    @torch.inference_mode()
    def call(self, prompt: list[int], answer: list[int]) -> None:
        """Feed what is new of a prompt, then an answer token by token, all but its last."""
        rows = []
        start = time.perf_counter()
        new = prompt[self._fed :]
        for token in answer:
            row = self._forward(new)
            int(row.argmax())  # a caller needs it to go on
            rows.append(row)
            new = [token]
        self.seconds.append(time.perf_counter() - start)
        self._fed = len(prompt) + len(answer) - 1
        for row, token in zip(rows, answer, strict=True):
            self.differing += int(row.argmax()) != token
            self.beyond_ties += float(row.max() - row[token]) >= TIE

    def _forward(self, token_ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = self._model(
            torch.tensor([token_ids]),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[0, -1]
