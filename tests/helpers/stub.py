"""An engine without a model: a stub that writes tokens instead of KV and checks what is read."""

from __future__ import annotations

import random
from typing import Any

from gsr_engine import Engine, EngineConfig, SamplingParams, SelfRefineParams
from gsr_engine.demo.report import NANO
from gsr_engine.errors import InvalidRequest
from gsr_engine.execution.loading import load_parts
from gsr_engine.execution.sampler import Draws
from gsr_engine.kv.segments import Context, Segment, context_length
from gsr_engine.model.decoder import Decoder
from gsr_engine.schedule.admission import AnyRequest
from gsr_engine.step.batch import copied_slots, slots
from gsr_engine.step.plan import StepPlan

END = 2  # nano's


class StubDraws:
    """What a step drew; known once it is waited for."""

    def __init__(self, tokens: list[int], logprobs: list[float], broken: bool) -> None:
        self._draws = Draws(tokens, logprobs)
        self._broken = broken

    def wait(self) -> Draws:
        if self._broken:
            raise RuntimeError("the device burnt down")
        return self._draws


class StubRunner:
    """Slots hold (token, position, all that came before); a reader must find what it expects."""

    def __init__(self, rng: random.Random, num_pages: int, lag: int) -> None:
        self.num_pages = num_pages
        self.lag = lag
        self.sharing = None
        self._rng = rng
        self._slots: dict[int, tuple[int, int, int]] = {}
        self._drawn: dict[Segment, int] = {}
        self.fail = False
        self.fail_late = False
        self.not_finite = False

    def launch(self, plan: StepPlan) -> StubDraws:
        if self.fail:
            self.fail = False
            raise RuntimeError("the device is on fire")
        self._copy(plan)
        for chunk in plan.chunks:
            copied = context_length(plan.copies.get(chunk.segment, ()))
            assert chunk.start == (copied or chunk.segment.computed) < chunk.stop
            self._write(chunk.segment, chunk.start, chunk.stop)
        for chunk in plan.chunks:
            for span in chunk.segment.context:
                self._read(span.segment, span.stop)
            self._read(chunk.segment, chunk.stop)
        for _, stream in plan.draws:
            assert stream.num_drawn < (stream.params.max_tokens or 0)
        tokens = [
            END if self._rng.random() < 0.03 else self._rng.randrange(3, 9) for _ in plan.draws
        ]
        self._drawn = {s.segment: token for (_, s), token in zip(plan.draws, tokens, strict=True)}
        logprobs = [-1.0] * len(tokens)
        if self.not_finite and tokens:
            self.not_finite = False
            logprobs[self._rng.randrange(len(tokens))] = float("nan")
        broken, self.fail_late = self.fail_late, False
        return StubDraws(tokens, logprobs, broken)

    def _copy(self, plan: StepPlan) -> None:
        if plan.copies:
            read, written = copied_slots(plan)
            contents = [self._slots[slot] for slot in read.tolist()]
            self._slots.update(zip(written.tolist(), contents, strict=True))
        for segment, sources in plan.copies.items():
            assert all(span.computed for span in sources)
            assert segment.computed == 0
            self._read(segment, context_length(sources))

    def _write(self, segment: Segment, start: int, stop: int) -> None:
        for place, slot in enumerate(slots(segment, start, stop).tolist(), start=start):
            self._slots[slot] = self._content(segment, place)

    def _read(self, segment: Segment, stop: int) -> None:
        for place, slot in enumerate(slots(segment, 0, stop).tolist()):
            assert self._slots[slot] == self._content(segment, place)

    def _content(self, segment: Segment, place: int) -> tuple[int, int, int]:
        """What KV depends on: the token, its position, and everything that it could see."""
        known = place < len(segment.token_ids)
        token = segment.token_ids[place] if known else self._drawn[segment]
        seen = hash((*shown(segment.context), *segment.token_ids[:place]))
        return token, segment.position + place, seen

    def use(self, decoder: Decoder) -> None:
        """No weights are used."""

    def reset(self) -> None:
        """Nothing is kept."""


def shown(context: Context) -> tuple[int, ...]:
    """The tokens of a context."""
    return tuple(token for span in context for token in span.token_ids)


class Driver:
    """Does random things to an engine and checks after each that nothing was lost."""

    def __init__(self, seed: int, pages: int, lag: int = 0, **options: Any) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.runner = StubRunner(self.rng, pages, lag)
        config = EngineConfig(**options)
        parts = load_parts(NANO, config)
        self.engine = Engine(*parts, config, runner=self.runner, clock=lambda: self.now)
        self.live: list[AnyRequest] = []
        self.ended: list[AnyRequest] = []

    def submit_generate(self) -> None:
        rng = self.rng
        # Few families of prompts, so that many begin alike.
        prompt = [rng.randrange(3, 5) for _ in range(rng.randrange(1, 5))]
        prompt = ([7] * rng.choice((0, 15, 16, 17, 40)) + prompt)[:60]
        params = SamplingParams(
            n=rng.randrange(1, 5),
            max_tokens=rng.randrange(1, 80),
            priority=rng.choice((0, 0, 0, 2)),
            cache_salt=rng.choice(("", "", "other")),
        )
        self._submit(self.engine.new_generate(prompt, params))

    def submit_refine(self) -> None:
        rng = self.rng
        layout = rng.choice(("linear", "branched"))
        finished = layout == "linear" and rng.random() < 0.3
        params = SelfRefineParams(
            k=rng.randrange(1, 5),
            layout=layout,  # type: ignore[arg-type]
            candidate=SamplingParams(max_tokens=rng.randrange(1, 40)),
            refine=SamplingParams(max_tokens=rng.randrange(1, 40)),
            order="as_finished" if finished else "shuffled",
            view=rng.choice(("summary", "full")),
            summary_tokens=rng.choice((8, 1000)),
            widths=() if finished or rng.random() < 0.6 else (rng.randrange(1, 4),),
            subset=None if finished or rng.random() < 0.6 else rng.randrange(1, 3),
            refinements=rng.randrange(1, 3),
            priority=rng.choice((0, 0, 0, 2)),
            seed=rng.randrange(100),
        )
        given = None
        if rng.random() < 0.2:
            given = [[rng.randrange(3, 9)] * rng.randrange(0, 20) for _ in range(params.k)]
        problem = rng.choice(("1 * 2", "1 * 3", "7 * 8 * 9 + 1"))
        try:
            self._submit(self.engine.new_self_refine(problem, params, candidates=given))
        except InvalidRequest as error:
            if error.field != "max_tokens":  # more than the whole pool holds
                raise

    def _submit(self, request: AnyRequest) -> None:
        if self.rng.random() < 0.2:
            request.deadline = self.now + self.rng.randrange(1, 60)
        self.engine.submit(request)
        self.live.append(request)

    def step(self) -> None:
        self.now += 1.0
        for request in self.engine.step():
            assert request.finished
            self.live.remove(request)  # exactly once
            self.ended.append(request)

    def abort(self) -> None:
        if self.live:
            self.engine.abort(self.rng.choice(self.live))

    def fail(self) -> None:
        """The next step that computes anything raises."""
        self.runner.fail = True

    def fail_late(self) -> None:
        """The next step that computes anything raises when its tokens are asked for."""
        self.runner.fail_late = True

    def poison(self) -> None:
        """One draw of the next step is not finite."""
        self.runner.not_finite = True

    def evict(self) -> None:
        cache = self.engine.memory.cache
        if cache:
            cache.evict()

    def check(self) -> None:
        self.engine.check()
        stats = self.engine.stats()
        assert stats["pages_used"] <= stats["pages_total"]

    def drain(self) -> None:
        """Everybody reaches an end, and everything is free."""
        steps = 0
        while self.engine.has_work:
            self.step()
            steps += 1
            assert steps < 100_000, "no progress"
        assert not self.live
        cache = self.engine.memory.cache
        if cache:
            cache.clear()
        self.check()
        pool = self.engine.memory.pool
        assert pool.num_free == pool.num_pages

    ACTIONS = (
        ("step", 24),
        ("submit_generate", 2),
        ("submit_refine", 2),
        ("abort", 1),
        ("evict", 1),
        ("fail", 0.05),
        ("fail_late", 0.05),
        ("poison", 0.2),
    )

    def act(self) -> None:
        """One random thing."""
        names, weights = zip(*self.ACTIONS, strict=True)
        if len(self.live) > 30:
            self.step()
        else:
            getattr(self, self.rng.choices(names, weights)[0])()
