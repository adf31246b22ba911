"""A reward model: how good a solution is, as a number, without knowing the gold answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gsr_engine.errors import CheckpointError
from train.command import log


class RewardModel:
    """A checkpoint of transformers' sequence classification; it is loaded when it is first asked.

    The reward is the logit of its only label; of several labels it is that of the last one. The
    model reads problem and solution as a conversation, if its tokenizer has a chat template, and
    else as a pair of texts. Solutions are judged one by one, so no reward depends on another's
    length. Of what is longer than the model's context the end is judged, and a line of the log says
    so.

    Args:
        folder: the checkpoint.

    Raises:
        CheckpointError: when it is first asked: it is no such checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def rewards(self, problem: str, solutions: Sequence[str]) -> list[float]:
        """The reward of each solution of a problem."""
        return [self._reward(problem, one) for one in solutions]

    def _reward(self, problem: str, solution: str) -> float:
        inputs = self._inputs(problem, solution)
        length = len(inputs["input_ids"])
        if length > self._longest:
            log.info("a solution of %s tokens is judged by its end", f"{length:,}")
        tensors = {
            name: torch.tensor([values[-self._longest :]], device=self._device)
            for name, values in inputs.items()
        }
        with torch.inference_mode():
            logits = self._model(**tensors).logits
        return float(logits[0, -1])

    def _inputs(self, problem: str, solution: str) -> Mapping[str, list[int]]:
        """All that the tokenizer gives the model, e.g. which of the two texts a token is of."""
        if self._tokenizer.chat_template:
            messages = [
                {"role": "user", "content": problem},
                {"role": "assistant", "content": solution},
            ]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False)
            read = self._tokenizer(text, add_special_tokens=False)
        else:
            read = self._tokenizer(problem, solution)
        return dict(read)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer  # noqa: PLC0415  # seconds to import

        return self._loaded(AutoTokenizer)

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

        model, info = self._loaded(AutoModelForSequenceClassification, output_loading_info=True)
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"]))
            raise CheckpointError(f"{self._folder} is no reward model: it lacks {missing}")
        return model.float().eval().to(self._device)

    @cached_property
    def _longest(self) -> int:
        """The tokenizer may know a shorter one: RoBERTa has two positions that no text can take."""
        positions: int | None = getattr(self._model.config, "max_position_embeddings", None)
        return min(positions or sys.maxsize, int(self._tokenizer.model_max_length))

    def _loaded(self, kind: Any, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self._folder, **options)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{self._folder} is no reward model: {error}") from None
