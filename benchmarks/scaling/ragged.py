"""The host's work of a GPU's steps while streams join and leave: plan, batch, lists, pack, commit.

A stub in place of the model draws at once, so nothing hides the host. Each step makes what a GPU
would be sent: the tensors of the batch, and the work list of its decoding streams in one vector.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from benchmarks.stub_runner import RandomRunner
from gsr_engine import Engine, EngineConfig, SamplingParams
from gsr_engine.attention.decode_work import DecodeWork
from gsr_engine.attention.sharing import Sharing, SharingCosts
from gsr_engine.demo.report import NANO
from gsr_engine.execution.loading import load_parts
from gsr_engine.step.batch import build_batch
from gsr_engine.step.plan import StepPlan

PARTS = ("plan", "batch", "lists", "pack", "commit")
PROMPT, ANSWER = (200, 400), (50, 500)
"""Tokens of a prompt and of an answer: the bounds of random lengths."""
_ROUND = 64
"""The packed list is padded to a multiple of so many entries, as a graph's would be."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RaggedCost:
    """The host's time per step of streams with prompts of their own and random lengths.

    Attributes:
        streams: that decode at the same time.
        steps: that were timed.
        changed: steps in which a stream joined or left.
        parts: milliseconds per step by part, in the order of the step.
        lists_ms: those of the lists alone, in the median, without and with a change.
    """

    streams: int
    steps: int
    changed: int
    parts: dict[str, float]
    lists_ms: tuple[float, float]


class _ListRunner(RandomRunner):
    """A stub that makes the lists of a step and times them."""

    def __init__(self, *args: Any, heads: tuple[int, int], **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.changed: list[bool] = []
        self._lists = DecodeWork(Sharing(SharingCosts(), *heads))
        self._last: list[Any] = []

    def launch(self, plan: StepPlan) -> Any:
        """The lists, and a token for each draw."""
        self.timed("batch", lambda: build_batch(plan))
        chunks = plan.chunks[: plan.num_decodes]
        segments = [chunk.segment for chunk in chunks]
        if chunks:
            self.changed.append(segments != self._last)
            work = self.timed("lists", lambda: self._lists.build(chunks))
            entries = -(-len(work.row_ids) // _ROUND) * _ROUND
            self.timed("pack", lambda: work.packed(work.num_rows, entries))
        self._last = segments
        return super().launch(plan)

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """The result of some work; its processor time counts for a part."""
        start = time.thread_time()
        try:
            return work()
        finally:
            self.seconds[part].append(time.thread_time() - start)


def measure_ragged(streams: int, steps: int) -> RaggedCost:
    """Time steps at a constant number of streams; whoever ends is replaced by a new prompt."""
    config = EngineConfig(max_num_seqs=streams, max_batch_tokens=streams + PROMPT[1])
    decoder, tokenizer, gsr = load_parts(NANO, config)
    shape, rng = decoder.config, random.Random(0)
    tokens = [t for t in range(shape.vocab_size) if t not in tokenizer.control_ids]
    pages = streams * (PROMPT[1] + ANSWER[1]) // 8
    heads = shape.num_heads, shape.num_kv_heads
    runner = _ListRunner(pages, tokens, min(tokenizer.stop_ids), 10**9, 0, heads=heads)
    with Engine(decoder, tokenizer, gsr, config, runner=runner) as engine:
        _watch(engine, runner)

        submit = partial(submit_ragged, engine, tokens, rng)
        for _ in range(streams):
            submit()
        while engine.scheduler.num_running_streams < streams:
            engine.step()
        runner.seconds.clear()
        runner.changed.clear()
        for _ in range(steps):
            for _ in engine.step():
                submit()
    return _cost(runner, streams, steps)


def submit_ragged(
    engine: Engine,
    tokens: Sequence[int],
    rng: random.Random,
    prompt: tuple[int, int] = PROMPT,
    answer: tuple[int, int] = ANSWER,
) -> None:
    """Submit a random prompt of a random length, and ask for an answer of a random length."""
    ids = rng.choices(tokens, k=rng.randint(*prompt))
    params = SamplingParams(max_tokens=rng.randint(*answer), ignore_eos=True)
    engine.submit(engine.new_generate(ids, params))


def _watch(engine: Engine, runner: _ListRunner) -> None:
    for part in ("plan", "commit"):
        inner = getattr(engine.scheduler, part)

        def timed(*args: Any, inner: Any = inner, part: str = part, **named: Any) -> Any:
            return runner.timed(part, lambda: inner(*args, **named))

        setattr(engine.scheduler, part, timed)


def _cost(runner: _ListRunner, streams: int, steps: int) -> RaggedCost:
    by_change: dict[bool, list[float]] = {False: [], True: []}
    for changed, seconds in zip(runner.changed, runner.seconds["lists"], strict=True):
        by_change[changed].append(1e3 * seconds)
    same, other = (statistics.median(by_change[key] or [0.0]) for key in (False, True))
    parts = {part: 1e3 * sum(runner.seconds[part]) / steps for part in PARTS}
    return RaggedCost(streams, steps, sum(runner.changed), parts, (same, other))
