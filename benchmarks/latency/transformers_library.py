"""Transformers as a library to measure: static batches of `generate`, and continuous batching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from benchmarks.latency.library_system import Written
from benchmarks.peers.servers import NotAnswered
from benchmarks.peers.transformers_batching import batching
from benchmarks.peers.transformers_generate import left_padded, sampling

_GREEDY = 1e-4
"""Temperature that stands for greedy: a manager has one way of sampling for all its requests."""


class StaticBatches:
    """`generate`: all that waits, of one kind, is the next batch, padded on the left.

    So problems that come together are answered in step, phase by phase; each stream waits for the
    longest of its batch.

    Args:
        folder: of the checkpoint.
        dtype: to compute in.
        stop_ids: end tokens.
    """

    def __init__(self, folder: Path, dtype: str, stop_ids: Collection[int]) -> None:
        self._model = _load(folder, dtype)
        self._stop_ids = frozenset(stop_ids)

    @asynccontextmanager
    async def open(self, fixed: bool, _: int) -> AsyncIterator[_Batches]:
        """See `Library`."""
        batches = _Batches(self._model, self._stop_ids, fixed)
        running = asyncio.create_task(batches.run())
        try:
            yield batches
        finally:
            running.cancel()


@dataclass(frozen=True, slots=True)
class _Call:
    kind: tuple[int, int, bool]
    prompt: list[int]
    done: asyncio.Future[list[Written]]


@dataclass(slots=True)
class _Batches:
    """The batches of one cell."""

    model: PreTrainedModel
    stop_ids: frozenset[int]
    fixed: bool
    waiting: asyncio.Queue[_Call] = field(default_factory=asyncio.Queue)

    async def continued(self, prompt: list[int], n: int, tokens: int, draws: bool) -> list[Written]:
        done = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait(_Call((n, tokens, draws), prompt, done))
        written: list[Written] = await done
        return written

    async def run(self) -> None:
        """Batch after batch, for ever; an error is that of every call in its batch."""
        calls: list[_Call] = []
        while True:
            calls = calls or [await self.waiting.get()]
            await asyncio.sleep(0.001)  # those that come together are one batch
            while not self.waiting.empty():
                calls.append(self.waiting.get_nowait())
            batch = [one for one in calls if one.kind == calls[0].kind]
            calls = [one for one in calls if one.kind != calls[0].kind]
            try:
                prompts = [one.prompt for one in batch]
                written = await asyncio.to_thread(self._generate, prompts, *batch[0].kind)
            except Exception as error:  # whatever the library raises
                for one in batch:
                    if not one.done.cancelled():
                        one.done.set_exception(NotAnswered(f"transformers: {error!r}"))
                continue
            n = batch[0].kind[0]
            for index, one in enumerate(batch):
                if not one.done.cancelled():
                    one.done.set_result(written[index * n : (index + 1) * n])

    @torch.inference_mode()
    def _generate(
        self, prompts: list[list[int]], n: int, tokens: int, draws: bool
    ) -> list[Written]:
        ids, mask = (tensor.to(self.model.device) for tensor in left_padded(prompts))
        settings, clock = sampling(n, tokens, draws=draws), _Clock()
        if not self.fixed:
            settings.min_new_tokens = None
            settings.eos_token_id = sorted(self.stop_ids)
        out = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        rows = [self._ended(row) for row in out[:, ids.shape[1] :].tolist()]
        return [Written(row, clock.moments[0], clock.moments[len(row) - 1]) for row in rows]

    def _ended(self, row: list[int]) -> list[int]:
        """Up to its end token; padding follows."""
        if self.fixed:
            return row
        ends = (i for i, token in enumerate(row, start=1) if token in self.stop_ids)
        return row[: next(ends, len(row))]


class _Clock(StoppingCriteria):  # type: ignore[misc]  # transformers is not typed
    """When each token of a batch was there; it stops nothing."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.moments.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class ContinuousBatches:
    """Continuous batching: pages, mixed steps; every stream is a request of its own.

    Args:
        folder, dtype, stop_ids: as of `StaticBatches`.
        longest: tokens of the longest context.
    """

    def __init__(self, folder: Path, dtype: str, stop_ids: Collection[int], longest: int) -> None:
        self._model = _load(folder, dtype, attn_implementation="sdpa")
        self._stop_ids, self._longest = sorted(stop_ids), longest

    @asynccontextmanager
    async def open(self, fixed: bool, most_streams: int) -> AsyncIterator[_Requests]:
        """See `Library`; a manager starts in about a second, and ends with the cell."""
        settings = sampling(1, self._longest, draws=True)
        settings.min_new_tokens, settings.eos_token_id = None, -1
        settings.temperature = 0.5  # 1 would leave the temperature of a request out
        config = batching(most_streams, self._longest, per_request_processors=True)
        manager = self._model.init_continuous_batching(settings, config)
        manager.start()
        try:
            yield _Requests(manager, [-1] if fixed else self._stop_ids)
        finally:
            manager.stop(block=True)


@dataclass(frozen=True, slots=True)
class _Requests:
    """The requests of one cell."""

    manager: Any
    stop_ids: list[int]

    async def continued(self, prompt: list[int], n: int, tokens: int, draws: bool) -> list[Written]:
        return await asyncio.gather(*(self._one(prompt, tokens, draws, i) for i in range(n)))

    async def _one(self, prompt: list[int], tokens: int, draws: bool, index: int) -> Written:
        done = asyncio.get_running_loop().create_future()
        name = f"{id(done)}-{index}"
        self.manager.register_result_handler(name, done.set_result)
        taken = self.manager.add_request(
            prompt,
            name,
            max_new_tokens=tokens,
            record_timestamps=True,
            eos_token_id=self.stop_ids,
            temperature=1.0 if draws else _GREEDY,
        )
        if taken is None:
            raise NotAnswered("transformers: its manager has stopped")
        output = await done
        if output.error is not None:
            raise NotAnswered(f"transformers: {output.error}")
        return Written(output.generated_tokens, output.timestamps[0], output.timestamps[-1])


def _load(folder: Path, dtype: str, **options: Any) -> PreTrainedModel:
    """With torch's threads."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), **options
    ).eval()
