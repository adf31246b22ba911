"""A cell of the grid: one system at one work and load; and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Self

from benchmarks.latency.timed_answer import TimedAnswer
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import SamplingParams, View
from gsr_engine.speed.refine_speed import Lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Where in the grid.

    Attributes:
        system: its name.
        k: candidates.
        lengths: tokens of problem, candidate and refinement; None if all are natural: a stream
            ends at its end token.
        at_once: closed loop: so many clients, each of which asks again once it has its answer.
        rate: open loop: problems per second that arrive at random (Poisson), whatever waits. One
            of the two is 0.
        round: number of the run; see `grid`.
    """

    system: str
    k: int
    lengths: Lengths | None = None
    at_once: int = 0
    rate: float = 0.0
    round: int = 0

    @property
    def load(self) -> str:
        """As tables have it."""
        return f"{self.rate:g}/s" if self.rate else f"{self.at_once} at once"

    @property
    def work(self) -> str:
        """As tables have it."""
        return "natural" if self.lengths is None else "/".join(map(str, self.lengths))

    def __str__(self) -> str:
        return f"{self.system}, k {self.k}, {self.work}, {self.load}"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From plain values, as `asdict` of the journal has them."""
        lengths = values["lengths"]
        return cls(**{**values, "lengths": None if lengths is None else Lengths(*lengths)})


def grid(
    systems: Sequence[str],
    ks: Sequence[int],
    lengths: Sequence[Lengths | None],
    at_once: Sequence[int],
    rates: Sequence[float],
    rounds: int,
) -> Iterator[Cell]:
    """Every cell, round by round.

    Systems take turns within a work, so that they see the same machine. Rounds are apart, so that
    not all of them see it busy.
    """
    loads = [(one, 0.0) for one in at_once] + [(0, one) for one in rates]
    places = product(range(rounds), lengths, loads, ks, systems)
    for round_, length, (clients, rate), k, system in places:
        yield Cell(system=system, k=k, lengths=length, at_once=clients, rate=rate, round=round_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """How the streams of an answer end.

    Attributes:
        k: candidates.
        candidate, refine: most tokens of each stream.
        fixed: whether each has exactly so many. Then refinements read whole candidates, because
            the thinking of such a text may never end.
        seed: of all problems.
        salt: keeps the prefix cache of this cell apart from those of others, and from those of its
            other rounds, which ask the same problems.
    """

    k: int
    candidate: int
    refine: int
    fixed: bool
    seed: int = 0
    salt: str = ""

    def tokens(self, refinement: bool) -> dict[str, int]:
        """The bounds of a stream, by their names in every API here."""
        most = self.refine if refinement else self.candidate
        return {"max_tokens": most, "min_tokens": most} if self.fixed else {"max_tokens": most}

    @property
    def view(self) -> View:
        """What a refinement is shown of a candidate."""
        return "full" if self.fixed else "summary"

    @property
    def summary_tokens(self) -> int:
        """Most tokens of a candidate that a refinement is shown: all of them."""
        return self.candidate

    def sampling(self, refinement: bool) -> SamplingParams:
        """Candidates are drawn at temperature 1, refinements are greedy."""
        bounds = self.tokens(refinement)
        return SamplingParams(
            temperature=0.0 if refinement else 1.0,
            max_tokens=bounds["max_tokens"],
            min_tokens=bounds.get("min_tokens", 0),
        )

    def check(self, candidate_tokens: int, refine_tokens: int) -> str:
        """What is wrong with the numbers of generated tokens; "" if nothing is."""
        expected = (self.k * self.candidate, self.refine)
        if not self.fixed or (candidate_tokens, refine_tokens) == expected:
            return ""
        came = f"{candidate_tokens} and {refine_tokens} tokens came"
        return f"{came}, {expected[0]} and {expected[1]} were asked for: is min_tokens known?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a cell gave.

    Attributes:
        cell: which.
        answers: in the order of the problems.
        elapsed: seconds from the first arrival to the last answer.
        peak_pages: the most KV pages of 16 tokens that were used at once; None if nobody tells.
        product_seconds: of the fixed product of `benchmarks.steadiness`, the worse of before and
            after.
        machine: date, hardware and versions.
    """

    cell: Cell
    answers: list[TimedAnswer]
    elapsed: float
    peak_pages: int | None
    product_seconds: float
    machine: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """From the values of `as_dict`."""
        cell = Cell.from_dict(values["cell"])
        answers = [TimedAnswer(**one) for one in values["answers"]]
        return cls(**{**values, "cell": cell, "answers": answers})


def lengths_of(text: str) -> Lengths:
    """From text such as 128/256/128.

    Raises:
        InvalidRequest: it is no such text, or a stream has less than two tokens.
    """
    parts = text.split("/")
    if len(parts) != len(Lengths._fields) or not all(p.isdecimal() for p in parts):
        raise InvalidRequest(
            "lengths", f"must be tokens such as 128/256/128 (problem/candidate/refine), got {text}"
        )
    lengths = Lengths(*map(int, parts))
    if lengths.problem < 1 or min(lengths.candidate, lengths.refine) < 2:
        raise InvalidRequest("lengths", f"a problem has 1 token or more, a stream 2, got {text}")
    return lengths
