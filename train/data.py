"""What a run learns from, and which rows each of its steps takes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS, Layout
from gsr_engine.prompts import Prompts
from gsr_engine.sequence import derive_seed
from gsr_engine.tokenizer import Tokenizer
from train.rows import Row, branched_row, direct_row, linear_row


@dataclass(frozen=True, slots=True)
class Record:
    """A problem, a right solution, and candidates to refine (token ids of their summaries)."""

    problem: list[int]
    solution: list[int]
    summaries: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Mixture:
    """How many rows of each kind a step takes, and how refinement rows are made.

    Attributes:
        direct, refine: rows per step.
        candidate_weights: weight of 1, 2, ... candidates in a refinement row.
        layouts: each refinement row takes the next of these in turn.
    """

    direct: int
    refine: int
    candidate_weights: tuple[float, ...] = (0, 0, 0, 1.0)
    layouts: tuple[Layout, ...] = LAYOUTS

    @classmethod
    def uniform(cls, direct: int, refine: int, k: str, layouts: Sequence[str]) -> Mixture:
        """From settings: `k` is "least-most", every count between equally likely.

        Raises:
            InvalidRequest: a setting is out of range.
        """
        least, _, most = k.partition("-")
        if not (least.isdigit() and (most or least).isdigit() and int(least) >= 1):
            raise InvalidRequest("k", f"must be least-most, e.g. 4-6, got {k!r}")
        if int(most or least) < int(least):
            raise InvalidRequest("k", f"least is above most in {k!r}")
        if direct + refine < 1:
            raise InvalidRequest("direct", "and refine are both 0: nothing to learn")
        if unknown := set(layouts) - set(LAYOUTS):
            raise InvalidRequest("layouts", f"must be of {', '.join(LAYOUTS)}, got {unknown}")
        weights = [float(n >= int(least)) for n in range(1, int(most or least) + 1)]
        return cls(direct, refine, tuple(weights), tuple(one for one in LAYOUTS if one in layouts))

    @property
    def num_candidates(self) -> tuple[int, int]:
        """Least and most candidates of a refinement row."""
        counts = [n for n, weight in enumerate(self.candidate_weights, start=1) if weight]
        return counts[0], counts[-1]

    def once_each(self, count: int) -> Mixture:
        """The same mixture with `count` rows of each kind that it has."""
        return replace(self, direct=count if self.direct else 0, refine=count if self.refine else 0)


class Rows:
    """The rows of every step, a pure function of (seed, step): a run resumes from its step alone.

    Direct rows and refinement rows each walk through their records in an order that is shuffled
    anew every epoch; the candidates of a refinement row, their number and order are drawn.
    """

    def __init__(
        self, prompts: Prompts, records: Sequence[Record], mixture: Mixture, seed: int
    ) -> None:
        self._prompts = prompts
        self._records = records
        self._refinable = [record for record in records if record.summaries]
        self._mixture = mixture
        self._seed = seed
        self._orders: dict[tuple[int, int], list[int]] = {}
        if not records:
            raise InvalidRequest("data", "holds no record to learn from")
        if mixture.refine and not self._refinable:
            raise InvalidRequest("data", "no record has candidates, but the mixture refines")

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes a row: records, mixture and seed."""
        text = repr((self._seed, self._mixture, self._records))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def step(self, step: int) -> list[Row]:
        """The rows of one step."""
        mixture = self._mixture
        rows = [
            direct_row(self._prompts, record.problem, record.solution)
            for record in self._take(self._records, step, mixture.direct, stream=0)
        ]
        rng = random.Random(derive_seed(self._seed, 2, step))
        refined = self._take(self._refinable, step, mixture.refine, stream=1)
        for index, record in enumerate(refined, start=step * mixture.refine):
            layout = mixture.layouts[index % len(mixture.layouts)]
            rows.append(self._refine_row(record, layout, rng))
        return rows

    def _refine_row(self, record: Record, layout: Layout, rng: random.Random) -> Row:
        weights = self._mixture.candidate_weights
        k = rng.choices(range(1, len(weights) + 1), weights)[0]
        summaries = rng.sample(record.summaries, min(k, len(record.summaries)))
        build = linear_row if layout == "linear" else branched_row
        return build(self._prompts, record.problem, summaries, record.solution)

    def _take(self, records: Sequence[Record], step: int, count: int, stream: int) -> list[Record]:
        taken = []
        for index in range(step * count, (step + 1) * count):
            epoch, place = divmod(index, len(records))
            if (stream, epoch) not in self._orders:
                order = list(range(len(records)))
                random.Random(derive_seed(self._seed, stream, epoch)).shuffle(order)
                self._orders[stream, epoch] = order
            taken.append(records[self._orders[stream, epoch][place]])
        return taken


def load_records(
    path: Path, tokenizer: Tokenizer, prompts: Prompts, summary_tokens: int = 1000
) -> list[Record]:
    """Records of a JSONL file: `problem`, `solution`, and `candidates` (texts or token ids).

    A candidate enters as its summary; one without any is left out.

    Raises:
        InvalidRequest: a line is no such object.
    """
    records = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                raw = json.loads(line)
                problem = prompts.problem(str(raw["problem"]))
                solution = tokenizer.encode_text(str(raw["solution"]))
                candidates = [
                    tokenizer.encode_text(one) if isinstance(one, str) else [int(t) for t in one]
                    for one in raw.get("candidates", [])
                ]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidRequest("data", f"{path} line {number}: {error!r}") from None
            summaries = [prompts.summary(ids, summary_tokens) for ids in candidates]
            shown = [summary.token_ids for summary in summaries if summary]
            records.append(Record(problem, [*solution, tokenizer.end_id], shown))
    return records
