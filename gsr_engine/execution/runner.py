"""Runs one step on the device: plan to tensors, model, draws."""

from __future__ import annotations

from typing import Protocol

import torch

from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.sharing import Sharing
from gsr_engine.execution.graphs import DecodeGraphs
from gsr_engine.execution.prompt_logprobs import PendingScores, score_prompts
from gsr_engine.execution.sampler import Draws, Sampler
from gsr_engine.kv.segments import Segment
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import Renewal
from gsr_engine.schedule.drafts import StepCosts
from gsr_engine.step.batch import Batch, build_batch, copied_slots, known_tokens
from gsr_engine.step.plan import StepPlan


class Launched(Protocol):
    """The draws, and the scores of prompts, of a launched step."""

    def wait(self) -> Draws:
        """The draws; waits until they are computed, and raises errors of the device."""


class StepRunner(Protocol):
    """What the engine needs of the object that computes its steps: a `Runner`, or a stub in tests.

    Attributes:
        num_pages: KV pages that it has; the engine allocates only these.
        lag: how many launched steps may be uncommitted while the host plans the next. With a lag
            a token drawn in the step before is read on the device.
        sharing: counts which shared spans were read together; None if it never shares.
        costs: how long a step takes; None if no drafts are wanted.
    """

    num_pages: int
    lag: int
    sharing: Sharing | None
    costs: StepCosts | None

    def launch(self, plan: StepPlan) -> Launched:
        """Start a step: compute the plan's chunks, draw its tokens, score those of prompts."""

    def use(self, renew: Renewal) -> None:
        """Give the decoder other weights; no step may be in flight."""

    def reset(self) -> None:
        """Forget the streams of the last step."""


class Runner:
    """Executes step plans; of a request it keeps only the streams of the last step: `StepRunner`.

    Attributes:
        decoder: the model.
        attention: attention over the KV pages.
        sampler: draws the tokens.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: PagedAttention,
        cache: KVCache,
        max_draws: int,
        *,
        lag: int = 0,
        graphs: DecodeGraphs | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self.decoder = decoder
        self.lag = lag
        self.sharing = sharing
        self.costs: StepCosts | None = None
        self.num_pages = cache.num_pages
        self.attention = attention
        self._cache = cache
        self.sampler = Sampler()
        self._graphs = graphs
        self._drawn = torch.zeros(max_draws, dtype=torch.int64, device=decoder.device)
        self._drawn_at: dict[Segment, int] = {}

    @property
    def num_graphs(self) -> int:
        """How many shapes of decode steps have a graph; 0 without graphs."""
        return 0 if self._graphs is None else self._graphs.num_shapes

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Compute the plan's chunks, draws and scores; on a GPU this does not wait for them."""
        if plan.copies:
            self._cache.copy(*copied_slots(plan))
        batch = build_batch(plan, self._drawn_at)
        hidden = self._hidden(batch)
        # Scores first: their logits are gone before those of the draws are made.
        split = len(hidden) - batch.num_scored
        pieces = score_prompts(plan, hidden[split:], self.decoder.logits)
        hidden = hidden[:split]
        streams = [stream for _, stream in plan.draws]
        logits = self.decoder.logits(hidden) if streams else hidden
        draws = self.sampler.draw(logits, batch.draw_rows, streams, batch.assumed)
        if self.lag:
            self._drawn[: len(streams)].copy_(draws.token_ids)
            self._drawn_at = {s.segment: draw for draw, s in enumerate(streams)}
        return PendingScores(draws, pieces) if pieces else draws

    def _hidden(self, batch: Batch) -> torch.Tensor:
        if self._graphs is not None and batch.num_decodes == len(batch.chunks):
            return self._graphs.run(batch, self._drawn)
        batch = batch.to(self.decoder.device)
        token_ids = batch.token_ids
        if batch.has_sources:
            token_ids = known_tokens(batch.inputs, self._drawn)
        self.attention.begin(batch)
        return self.decoder.hidden(token_ids, self.attention, batch.logit_rows)

    def use(self, renew: Renewal) -> None:
        """Give the decoder other weights; no step may be in flight."""
        self.decoder = renew(self.decoder)
        self.reset()

    def reset(self) -> None:
        """Forget what attention and sampler kept from the last step."""
        self.attention.reset()
        self.sampler.reset()
