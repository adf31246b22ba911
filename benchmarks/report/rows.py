"""What the page knows of every sample: marks to filter by, and texts to show on demand.

One character is the mark of a solution: `r` right, `w` wrong, `n` no answer, `f` failed. It is a
capital if the solution was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.samples.folder import Run
from benchmarks.samples.method import Method
from benchmarks.samples.sample import Answer, Sample, Solution
from gsr_engine.outputs import CUT
from gsr_engine.text.answers import majority

OUTCOMES = (
    "every problem",
    "majority wrong → right",
    "majority right → wrong",
    "all candidates wrong → right",
    "right",
    "wrong",
    "nobody right",
    "no answer",
    "cut",
)
"""What the browser filters by, of one method: see `outcomes` of page/problems.js."""

MOST_TEXT = 24_000_000
"""Characters of text that a page holds; longer runs have their texts shortened."""
LEAST_SHOWN = 400
"""Characters that every text keeps, however long the run is."""
_BARS = 160
"""Bars of a drawing of log-probabilities: each is the least likely token of its stretch."""
_LEAST = -99.0
"""A log-probability below it is shown as this one: JSON has no infinity."""


def mark(solution: Solution) -> str:
    """The outcome of a solution in one character."""
    if solution.error is not None:
        return "f"
    letter = "r" if solution.correct else "n" if solution.answer is None else "w"
    return letter.upper() if solution.finish_reason in CUT else letter


def compared_at(method: Method, headline: int) -> int:
    """How many candidates a method is compared with: those it reads, else the run's headline."""
    return headline if method.layout is None and method.kind == "greedy" else method.k


@dataclass(frozen=True, slots=True)
class Texts:
    """Cuts texts to the length that a page can hold.

    Attributes:
        limit: characters of each text; None shows all.
    """

    limit: int | None

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Texts:
        """The limit that keeps all texts of these runs under `MOST_TEXT`."""
        lengths = [len(one.text) for run in runs for row in run.samples for one in _all(row)]
        if sum(lengths) <= MOST_TEXT:
            return cls(None)
        return cls(max(LEAST_SHOWN, _even_limit(lengths, MOST_TEXT)))

    def shortened(self, text: str) -> str:
        """Its begin and its end; the end is longer, because the answer stands there."""
        if self.limit is None or len(text) <= self.limit:
            return text
        begin = self.limit // 3
        end = self.limit - begin
        left_out = len(text) - self.limit
        return f"{text[:begin]}\n⋯ {left_out:,} characters are left out here ⋯\n{text[-end:]}"


def _even_limit(lengths: Sequence[int], most: int) -> int:
    """The largest limit under which texts of these lengths have at most so many characters."""
    left, count = most, len(lengths)
    for length in sorted(lengths):
        if length * count > left:
            break
        left -= length
        count -= 1
    return left // max(1, count)


def _all(sample: Sample) -> Iterator[Solution]:
    yield from sample.candidates
    yield from sample.weak
    yield from sample.answers


def marks_of(run: Run) -> list[dict[str, Any]]:
    """A row for every sample: id, repeat, size, marks of candidates, majorities and methods.

    `majorities` has a mark for every k that a method is compared at, see `compared_ks`.
    """
    ks = compared_ks(run)
    return [
        {
            "id": sample.id,
            "repeat": sample.repeat,
            "size": sample.size,
            "candidates": "".join(map(mark, sample.candidates)),
            "majorities": "".join(_majority_mark(sample, k) for k in ks),
            "methods": "".join(mark(sample.answer_of(one.name)) for one in run.methods),
        }
        for sample in run.samples
    ]


def compared_ks(run: Run) -> list[int]:
    """Every k that a method of the run is compared with a majority at."""
    headline = run.settings["headline"]
    return sorted({headline, *(compared_at(one, headline) for one in run.methods)})


def _majority_mark(sample: Sample, k: int) -> str:
    winner = _majority(sample, k)
    return "n" if winner is None else mark(sample.candidates[winner])


def _majority(sample: Sample, k: int) -> int | None:
    first = sample.candidates[:k]
    return majority([one.answer for one in first], [one.correct for one in first])


def texts_of(run: Run, sample: Sample, texts: Texts) -> dict[str, Any]:
    """What the page shows of one sample."""
    return {
        "problem": texts.shortened(sample.problem),
        "gold": sample.gold,
        "votes": [_majority(sample, k) for k in compared_ks(run)],
        "candidates": [_solution(one, texts) for one in sample.candidates],
        "weak": [_solution(one, texts) for one in sample.weak],
        "methods": [_answer(sample.answer_of(method.name), texts) for method in run.methods],
    }


def _answer(answer: Answer, texts: Texts) -> dict[str, Any]:
    return {
        **_solution(answer, texts),
        "used": answer.used,
        "pools": answer.pools,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "sequential_tokens": answer.sequential_tokens,
    }


def _solution(solution: Solution, texts: Texts) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "text": texts.shortened(solution.text),
        "answer": solution.answer,
        "mark": mark(solution),
        "tokens": solution.tokens,
        "finish": solution.finish_reason,
    }
    if solution.logprobs:
        shown["logprob"] = round(max(_LEAST, solution.logprob / len(solution.logprobs)), 4)
        shown["bars"] = _bars(solution.logprobs)
    if solution.reward is not None:
        shown["reward"] = solution.reward
    if solution.error is not None:
        shown["error"] = solution.error
    return shown


def _bars(logprobs: Sequence[float]) -> list[int]:
    """Log-probabilities in hundredths, without their sign: the least of each stretch of tokens."""
    width = -(-len(logprobs) // _BARS)
    stretches = (logprobs[at : at + width] for at in range(0, len(logprobs), width))
    return [round(-100 * max(_LEAST, min(stretch))) for stretch in stretches]
