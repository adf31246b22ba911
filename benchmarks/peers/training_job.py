"""What every trainer is to do, as files: peers live in environments where nothing of ours is."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """Rows to learn from in fp32, in order, by AdamW at a constant rate, gradients clipped at 1.

    Attributes:
        model: folder of the checkpoint to start from.
        threads: to compute with.
        token_ids: of every row; those of one step side by side, the shortest first.
        target_starts: index of the first token that is learnt, of every row.
        batch: rows of one optimizer step; the loss is the mean over its target tokens.
        micro_batch: rows of one forward.
        padding_free: join these to one sequence, instead of padding them to the longest.
        lr, beta2, decay: of AdamW.
        checkpointing: compute activations again in the backward.
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
    """What it came to.

    Attributes:
        losses, seconds, tokens: of every step; tokens are those of rows, padding is none.
        facts: worth writing beside them.
    """

    losses: list[float]
    seconds: list[float]
    tokens: list[int]
    facts: dict[str, str]

    @property
    def tokens_per_second(self) -> float:
        """The median over the steps behind the first, in which memory is had and kernels chosen."""
        return median(n / s for n, s in list(zip(self.tokens, self.seconds, strict=True))[1:])
