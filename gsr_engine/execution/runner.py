"""Runs one step on the device: plan to tensors, model, draws."""

from __future__ import annotations

from typing import Protocol

import torch

from gsr_engine.attention.kv_cache import KVCache
from gsr_engine.attention.paged_attention import PagedAttention
from gsr_engine.attention.sharing import Sharing
from gsr_engine.execution.graphs import DecodeGraphs, GraphCounts
from gsr_engine.execution.prompt_logprobs import PendingScores, score_prompts
from gsr_engine.execution.sampler import Draws, LastDraws, PendingDraws, Sampler
from gsr_engine.model.decoder import Decoder
from gsr_engine.model.weights import Renewal
from gsr_engine.requests.request import Stream
from gsr_engine.schedule.drafts import StepCosts
from gsr_engine.step.batch import Batch, build_batch, copied_slots, known_tokens
from gsr_engine.step.plan import StepPlan
from gsr_engine.step.transfer import to_device


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
        graph_counts: what became of the graphs; None without graphs.
    """

    num_pages: int
    lag: int
    sharing: Sharing | None
    costs: StepCosts | None

    @property
    def graph_counts(self) -> GraphCounts | None:
        """See above."""

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
        last: the draws of the last step, which the next one may read.
        graphs: of steps that decode; None without graphs.
    """

    def __init__(
        self,
        decoder: Decoder,
        attention: PagedAttention,
        cache: KVCache,
        max_draws: int,
        *,
        lag: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        self.decoder = decoder
        self.lag = lag
        self.sharing = sharing
        self.costs: StepCosts | None = None
        self.num_pages = cache.num_pages
        self.attention = attention
        self._cache = cache
        self.last = LastDraws(torch.zeros(max_draws, dtype=torch.int64, device=decoder.device))
        self.sampler = Sampler(self.last)
        self.graphs: DecodeGraphs | None = None

    @property
    def graph_counts(self) -> GraphCounts | None:
        """See `StepRunner`."""
        return None if self.graphs is None else self.graphs.counts

    @property
    def num_graphs(self) -> int:
        """How many graphs there are; 0 without graphs."""
        return 0 if self.graphs is None else self.graphs.counts.graphs

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Compute the plan's chunks, draws and scores; on a GPU this does not wait for them."""
        if plan.copies:
            self._cache.copy(*copied_slots(plan))
        batch = build_batch(plan, self.last.places)
        hidden, replayed = self._hidden(batch)
        # Scores first: their logits are gone before those of the draws are made.
        split = len(hidden) - batch.num_scored
        pieces = score_prompts(plan, hidden[split:], self.decoder.logits)
        hidden = hidden[:split]
        draws = self._draw(hidden, replayed, batch, [stream for _, stream in plan.draws])
        return PendingScores(draws, pieces) if pieces else draws

    def _hidden(self, batch: Batch) -> tuple[torch.Tensor, bool]:
        """The hidden states of the rows that draw or score, and whether a graph computed them."""
        device, work = self.decoder.device, None
        if self.graphs is not None and self.graphs.may_hold(batch):
            work = self.attention.lists.build(batch.chunks)
            if self.graphs.replay(batch, work):
                hidden, rows = self.graphs.hidden[: work.num_rows], batch.logit_rows
                return hidden if rows is None else hidden[to_device(rows.numpy(), device)], True
        elif self.graphs is not None:
            self.graphs.counts.eager_prefill += 1
        batch = batch.to(device)
        token_ids = batch.token_ids
        if batch.has_sources:
            token_ids = known_tokens(batch.inputs, self.last.tokens)
        if work is None:
            self.attention.begin(batch)
        else:
            self.attention.bind(batch.positions, batch.slot_mapping, work.on(device))
        return self.decoder.hidden(token_ids, self.attention, batch.logit_rows), False

    def _draw(
        self, hidden: torch.Tensor, replayed: bool, batch: Batch, streams: list[Stream]
    ) -> PendingDraws:
        """One token for each stream; `replayed`: a graph computed the hidden states."""
        draws = None
        # Every row draws, and no two streams draw from one: row i is that of stream i.
        in_order = batch.logit_rows is None and len(streams) == len(hidden)
        if self.graphs is not None and replayed and in_order:
            draws = self.graphs.draw(streams, batch.assumed)
        if draws is None:
            logits = self.decoder.logits(hidden) if streams else hidden
            draws = self.sampler.draw(logits, batch.draw_rows, streams, batch.assumed)
            if self.lag:
                self.last.tokens[: len(streams)].copy_(draws.token_ids)
        if self.lag:
            self.last.places = {s.segment: draw for draw, s in enumerate(streams)}
        return draws

    def use(self, renew: Renewal) -> None:
        """Give the decoder other weights; no step may be in flight."""
        before, self.decoder = self.decoder, renew(self.decoder)
        if self.decoder is not before:
            self.graphs = None  # they read the weights of the one before
        self.reset()

    def reset(self) -> None:
        """Forget what attention and sampler kept from the last step."""
        self.attention.reset()
        self.sampler.reset()
        if self.graphs is not None:
            self.graphs.reset()
