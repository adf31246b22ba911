"""The job of a trainer and its result. Peers run in environments without this project."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Rows to learn from in fp32, in order, by AdamW at a constant rate, gradients clipped at 1.

    Attributes:
        model: folder of the checkpoint to start from.
        threads: to compute with.
        token_ids: of every row; the rows of a step are adjacent, the shortest first.
        target_starts: for every row the index of the first target token.
        batch: rows of one optimizer step; the loss is the mean over its target tokens.
        micro_batch: rows of one forward.
        padding_free: join the rows of a forward to one sequence instead of padding them.
        lr, beta2, decay: of AdamW.
        checkpointing: recompute activations in the backward.
    """

    model: str
    threads: int
    token_ids: list[list[int]]
    target_starts: list[int]
    batch: int
    micro_batch: int
    padding_free: bool
    lr: float
    beta2: float
    decay: float
    checkpointing: bool

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.token_ids) // self.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The result of a training job.

    Attributes:
        losses, seconds, tokens: of every step; padding does not count among the tokens.
        facts: about the trainer.
    """

    losses: list[float]
    seconds: list[float]
    tokens: list[int]
    facts: dict[str, str]

    @property
    def tokens_per_second(self) -> float:
        """The median over all steps but the first, which allocates memory and chooses kernels."""
        return median(n / s for n, s in list(zip(self.tokens, self.seconds, strict=True))[1:])
