"""One conversation held with every caller, call by call in turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from benchmarks.conversations.engine_caller import EngineCaller
from benchmarks.conversations.kept_cache import KeptCache, load_model
from benchmarks.conversations.script import Conversation, Script
from gsr_engine import Engine, EngineConfig
from gsr_engine.execution.loading import load_parts
from gsr_engine.kv.segments import PAGE_SIZE

CALLERS = ("this engine", "without prefix cache", "transformers, cache kept")
Tracked = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one conversation cost.

    Attributes:
        subject: the model's name.
        script: what was held.
        ms: milliseconds of each call by caller, the least of all runs. The calls without prefix
            cache are `sampled` only, because their cost grows with the square of the length.
        sampled: indices of the calls that were also made without prefix cache.
        reused: prompt tokens of all calls that the prefix cache had.
        reusable: prompt tokens of all calls whose KV an earlier call computed: all of the earlier
            calls but the very last, which was drawn and never fed.
        pages: KV pages after the last call: used, cached, and the peak of all calls.
        last_pages: the most pages that the last call held.
        fewest_pages: pages that the last context would fill without gaps.
        generated: tokens of all answers.
        differing: those that are not transformers' most likely token.
        beyond_ties: those of them whose logit there is clearly below the best.
        uncached_differing: sampled calls whose answer differs without prefix cache.
    """

    subject: str
    script: Script
    ms: dict[str, list[float]]
    sampled: list[int]
    reused: int
    reusable: int
    pages: dict[str, int]
    last_pages: int
    fewest_pages: int
    generated: int
    differing: int
    beyond_ties: int
    uncached_differing: int

    def tenth(self, caller: str, *, last: bool) -> float:
        """Median milliseconds of a caller's calls within the first or the last tenth of all."""
        calls, times = self.script.calls, self.ms[caller]
        indices = self.sampled if len(times) < calls else range(calls)
        size = math.ceil(calls / 10)
        if last:
            indices = [calls - 1 - index for index in indices]
        return statistics.median(
            ms for index, ms in zip(indices, times, strict=True) if index < size
        )


class Subject:
    """A model, loaded once for this engine and once for transformers, both in fp32."""

    def __init__(self, name: str, folder: Path, kv_gib: float = 1.0) -> None:
        self.name = name
        self._config = EngineConfig(dtype="float32", kv_cache_gib=kv_gib)
        self._parts = load_parts(folder, self._config)
        self.model: PreTrainedModel = load_model(folder)
        decoder = self._parts[0].config
        self.max_length, self.vocab_size = decoder.max_position, decoder.vocab_size

    def engine(self, *, prefix_cache: bool) -> Engine:
        """An engine with an empty cache."""
        return Engine(*self._parts, replace(self._config, prefix_cache=prefix_cache))


def hold(subject: Subject, script: Script, every: int, tracked: Tracked) -> Outcome:
    """Hold one conversation with all callers, one call each in turn.

    Every caller goes on with the answers of this engine. The calls without prefix cache are every
    `every`th one and the last.

    Raises:
        InvalidRequest: the conversation outgrows the model's context.
    """
    script.check(subject.max_length)
    sampled = sorted({*range(0, script.calls, every), script.calls - 1})
    said, theirs = Conversation(script, subject.vocab_size), KeptCache(subject.model)
    reusable = uncached_differing = 0
    with (
        subject.engine(prefix_cache=True) as engine,
        subject.engine(prefix_cache=False) as uncached,
    ):
        ours, plain = EngineCaller(engine), EngineCaller(uncached)
        _warm_up(subject, plain)
        for index in tracked(range(script.calls), f"{subject.name}, {script.work}"):
            reusable += max(0, len(said.token_ids) - 1)
            prompt = said.ask()
            answer = ours.call(prompt, script.generated)
            theirs.call(prompt, answer)
            if index in sampled:
                uncached_differing += plain.call(prompt, script.generated) != answer
            said.answer(answer)
        pages = ours.pages()
    seconds = (ours.seconds, plain.seconds, theirs.seconds)
    return Outcome(
        subject=subject.name,
        script=script,
        ms={name: [1e3 * one for one in of] for name, of in zip(CALLERS, seconds, strict=True)},
        sampled=sampled,
        reused=ours.reused,
        reusable=reusable,
        pages=pages,
        last_pages=ours.last_pages,
        fewest_pages=math.ceil((script.length - 1) / PAGE_SIZE),
        generated=script.calls * script.generated,
        differing=theirs.differing,
        beyond_ties=theirs.beyond_ties,
        uncached_differing=uncached_differing,
    )


def _warm_up(subject: Subject, plain: EngineCaller) -> None:
    """Let both libraries make their first call on another text; nothing of it is kept."""
    prompt = [subject.vocab_size - 1] * 8
    KeptCache(subject.model).call(prompt, plain.call(prompt, 4))
    plain.seconds.clear()


def best_of(runs: Sequence[Outcome]) -> Outcome:
    """The first run with the least time of each call over all runs."""
    least = {
        name: [min(times) for times in zip(*(run.ms[name] for run in runs), strict=True)]
        for name in CALLERS
    }
    return replace(runs[0], ms=least)
