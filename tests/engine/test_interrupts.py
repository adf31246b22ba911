"""An interrupt at any line leaves an engine whose books are whole, and which answers correctly."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import gsr_engine
from gsr_engine import Engine, InvalidRequest, OutOfPages, SamplingParams, SelfRefineParams
from gsr_engine.demo.report import NANO

pytestmark = pytest.mark.slow

HOME = str(Path(gsr_engine.__file__).parent)
SHORT = SamplingParams(n=2, seed=3, max_tokens=4, ignore_eos=True)
ONE = SamplingParams(max_tokens=3, ignore_eos=True)
REFINE = SelfRefineParams(k=2, seed=4, candidate=ONE, refine=ONE)
PROBLEM = "1 * 2"
STRIDES = 150


class Interrupted(KeyboardInterrupt):
    """So that an interrupt of the test's is not one of the user's."""


class Lines:
    """Counts the lines that the package runs, and raises at one of them."""

    def __init__(self, last: int = -1, error: type[BaseException] = Interrupted) -> None:
        self.count, self._last, self._error = 0, last, error

    def run(self, work: Callable[[], Any]) -> Any:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return work()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(HOME) else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._last:
                raise self._error
        return self._line


@pytest.fixture
def engine() -> Iterator[Engine]:
    with (
        warnings.catch_warnings(action="ignore"),
        Engine.from_pretrained(NANO, dtype="float32", kv_cache_gib=0.01) as one,
    ):
        yield one


def complete(engine: Engine) -> list[Any]:
    return [one.token_ids for one in engine.generate([PROBLEM], SHORT)[0].completions]


def refine(engine: Engine) -> list[Any]:
    (result,) = engine.self_refine([PROBLEM], REFINE)
    assert result.error is None
    assert result.refinement is not None
    return [*(one.token_ids for one in result.candidates), result.refinement.token_ids]


@pytest.mark.parametrize("ask", [complete, refine])
def test_an_interrupt_at_any_line_of_a_call(ask: Callable[..., Any], engine: Engine) -> None:
    """At 150 places of a call that runs thousands of lines."""
    expected = ask(engine)
    whole = Lines()
    assert whole.run(lambda: ask(engine)) == expected
    last, stride = 1, max(1, whole.count // STRIDES) | 1
    while was_interrupted(Lines(last), lambda: ask(engine)):
        engine.check()
        assert ask(engine) == expected, f"after an interrupt at line {last} of {whole.count}"
        assert not engine.has_work
        last += stride
    assert last > whole.count // 2


def was_interrupted(lines: Lines, work: Callable[[], Any]) -> bool:
    try:
        lines.run(work)
    except Interrupted:
        return True
    return False


def test_requests_in_flight_are_reported_once_with_the_cause(engine: Engine) -> None:
    def interrupted(last: int) -> tuple[bool, int]:
        requests = [engine.new_generate(f"{i} * 2", SHORT) for i in range(3)]
        requests.append(engine.new_self_refine(PROBLEM, REFINE))
        for request in requests:
            engine.submit(request)
        reported: Counter[int] = Counter()
        hit = 0
        lines = Lines(last)
        while engine.has_work:
            try:
                reported.update(map(id, lines.run(engine.step)))
            except Interrupted:
                hit += 1
            engine.check()
        errors = {request.result.error for request in requests}
        assert hit <= 1
        assert errors <= {None, "Interrupted"}
        assert all(reported[id(request)] <= 1 for request in requests)
        failed = [one for one in requests if one.result.error]
        assert all(reported[id(request)] == 1 for request in failed)
        for request in requests:  # they are over for good
            with pytest.raises(InvalidRequest, match="submitted before"):
                engine.submit(request)
        return bool(hit), lines.count

    _, total = interrupted(-1)
    tried = 0
    while interrupted(1 + tried * (total // 60))[0]:
        tried += 1
    assert tried > 40


def test_an_interrupt_while_the_books_begin_anew(engine: Engine) -> None:
    """The next call finishes what the second interrupt cut off."""
    expected = complete(engine)
    request = engine.new_generate(PROBLEM, SHORT)
    engine.submit(request)
    memory = engine.memory

    def interrupt(*_: object) -> Any:
        raise Interrupted

    def again(*_: object) -> Any:
        raise Interrupted("again")

    engine.scheduler.plan = interrupt  # type: ignore[method-assign]
    fail, request.fail = request.fail, again  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="again"):
        engine.step()
    request.fail = fail  # type: ignore[method-assign]
    assert engine.step() == [request]
    assert request.result is not None
    assert request.result.error == "Interrupted"
    assert engine.memory is not memory
    assert complete(engine) == expected


def test_an_error_of_the_bookkeeping_is_raised_and_leaves_whole_books(engine: Engine) -> None:
    expected = complete(engine)
    request = engine.new_generate(PROBLEM, SHORT)
    engine.submit(request)
    engine.step()

    def plan() -> Any:
        raise OutOfPages("a bug")

    engine.scheduler.plan = plan  # type: ignore[method-assign]
    with pytest.raises(OutOfPages, match="a bug"):
        engine.step()
    engine.check()
    assert engine.memory.pool.num_free == engine.memory.pool.num_pages
    assert engine.step() == [request]
    assert request.result is not None
    assert request.result.error == "OutOfPages: a bug"
    assert complete(engine) == expected


def test_a_refused_submission_disturbs_nobody(engine: Engine) -> None:
    """What is raised before anything was changed fails nothing that runs."""
    running = engine.new_generate(PROBLEM, SHORT)
    engine.submit(running)
    with pytest.raises(InvalidRequest):
        engine.submit(running)
    new = engine.new_generate(PROBLEM, SHORT)
    with pytest.raises(InvalidRequest):
        engine.run([new, running])
    assert running.result is None
    while engine.has_work:
        engine.step()
    assert running.result.error is None
    assert new.finished
