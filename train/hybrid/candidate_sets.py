"""Sets of candidates to refine: subsets of a larger pool, balanced by how hard they are."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import MAX_CANDIDATES
from gsr_engine.seeds import derive_seed
from gsr_engine.text.answers import majority
from train.files import parse_object, whole_file
from train.hybrid.student import Student
from train.options import check_least
from train.problems import Problem
from train.samples import Sample


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """How sets are drawn.

    Attributes:
        weights: of sets of 1, 2, ... candidates.
        sets: drawn per problem.
        easy: number of easy sets (the majority is right) per hard set (it is wrong, or there is no
            answer). More easy sets are left out, chosen by the seed; hard and unchecked sets are
            all kept. None keeps all. In AggLM's ablation (arXiv 2509.06870) 0.05 to 0.5 do best;
            all easy sets would be 2.7.
        summary_tokens: longest candidate; a longer one keeps its end.
        seed: of sizes, subsets, orders and balance.
    """

    weights: tuple[float, ...] = (0, 0, 0, 1, 1, 1)
    sets: int = 1
    easy: float | None = 0.5
    summary_tokens: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if len(self.weights) > MAX_CANDIDATES or min(self.weights, default=-1) < 0:
            raise InvalidRequest("weights", f"must be 0 or more, at most {MAX_CANDIDATES} of them")
        if not sum(self.weights):
            raise InvalidRequest("weights", "are all 0")
        check_least(self, sets=1, summary_tokens=1, easy=0, seed=0)


def uniform_weights(k: str) -> tuple[float, ...]:
    """Weights from "least-most" (or one number): every size between is equally likely.

    Raises:
        InvalidRequest: the text is not such a range.
    """
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", k, re.ASCII)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= least <= most <= MAX_CANDIDATES:
        raise InvalidRequest("k", f"must be least-most within 1-{MAX_CANDIDATES}, got {k!r}")
    return tuple(float(n >= least) for n in range(1, most + 1))


def size_range(weights: Sequence[float]) -> str:
    """The "least-most" of `uniform_weights`."""
    return f"{1 + next(n for n, weight in enumerate(weights) if weight)}-{len(weights)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSet:
    """The candidates of a refinement. As a line of JSON it is also a prompt for `train.generate`.

    Attributes:
        id: the problem's id, the number of the set, and a digest of what is shown. The digest keeps
            targets of other candidates apart.
        candidates, candidate_ids: summaries as text and as ids, in the order shown.
        indices: which samples of the pool they are.
        num_correct: right candidates among them; -1 if not all were checked.
        majority_correct: whether the most frequent answer is right; None if unchecked.
        seed: of size, subset and order.
        tokenizer: hash of the tokenizer of `candidate_ids`.
    """

    id: str
    problem_id: str
    problem: str
    answer: str | None
    layout: str = "linear"
    candidates: list[str]
    candidate_ids: list[list[int]]
    indices: list[int]
    num_correct: int
    majority_correct: bool | None
    seed: int
    tokenizer: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, not copied: most are token ids."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def draw_sets(
    problems: Iterable[Problem],
    samples_of: Callable[[str], Sequence[Sample]],
    student: Student,
    config: SetConfig,
    dropped: Counter[str],
) -> Iterator[CandidateSet]:
    """The sets of every problem whose pool is large enough, before they are balanced.

    A candidate without a summary is left out. If a pool is smaller than the largest set, sizes are
    drawn from those that it can fill. `dropped` counts omissions by reason.
    """
    for problem in problems:
        samples = samples_of(problem.id)
        summaries = [(one, student.summary(one, config.summary_tokens)) for one in samples]
        pool = [(one, ids) for one, ids in summaries if ids]
        dropped["candidate without a summary"] += len(summaries) - len(pool)
        weights = config.weights[: len(pool)]
        if not sum(weights):
            dropped["problem with too few candidates"] += 1
            continue
        for number in range(config.sets):
            seed = derive_seed(config.seed, number, *problem.id.encode())
            yield _draw(problem, number, pool, weights, student, seed)


def _draw(
    problem: Problem,
    number: int,
    pool: Sequence[tuple[Sample, list[int]]],
    weights: Sequence[float],
    student: Student,
    seed: int,
) -> CandidateSet:
    rng = random.Random(seed)
    k = rng.choices(range(1, len(weights) + 1), weights)[0]
    shown = rng.sample(pool, k)  # a random subset in a random order
    right = [one.correct for one, _ in shown]
    checked = None not in right
    vote = majority([one.answer for one, _ in shown], right)
    candidates = [student.tokenizer.decode(ids) for _, ids in shown]
    digest = hashlib.sha256(json.dumps([problem.text, candidates]).encode()).hexdigest()[:8]
    return CandidateSet(
        id=f"{problem.id}#{number}-{digest}",
        problem_id=problem.id,
        problem=problem.text,
        answer=problem.answer,
        candidates=candidates,
        candidate_ids=[ids for _, ids in shown],
        indices=[one.index for one, _ in shown],
        num_correct=sum(map(bool, right)) if checked else -1,
        majority_correct=(vote is not None and bool(right[vote])) if checked else None,
        seed=seed,
        tokenizer=student.tokenizer_hash,
    )


def balanced(majority_correct: Sequence[bool | None], easy: float | None, seed: int) -> list[int]:
    """Indices of the sets that are kept, ascending; see `SetConfig.easy`."""
    if easy is None:
        return list(range(len(majority_correct)))
    easy_sets = [index for index, right in enumerate(majority_correct) if right]
    hard = sum(right is False for right in majority_correct)
    count = int(min(len(easy_sets), round(easy * hard)))
    rng = random.Random(seed)
    left_out = set(easy_sets) - set(rng.sample(easy_sets, count))
    return [index for index in range(len(majority_correct)) if index not in left_out]


def write_sets(
    path: Path, sets: Iterable[CandidateSet], easy: float | None, seed: int
) -> dict[str, Any]:
    """Write those of the sets that the balance keeps, in their order; returns their counts.

    All are written aside first, because the number of easy sets to keep is known at the end. See
    `balanced` for `easy` and `seed`. If none is kept, no file is written.
    """
    drawn = path.with_name(f"{path.name}.drawn")
    drawn.parent.mkdir(parents=True, exist_ok=True)
    strata: list[tuple[int, int, bool | None]] = []
    try:
        with drawn.open("w", encoding="utf-8") as all_sets:
            for one in sets:
                all_sets.write(json.dumps(one.as_dict(), ensure_ascii=False) + "\n")
                strata.append((len(one.candidates), one.num_correct, one.majority_correct))
        kept = set(balanced([right for *_, right in strata], easy, seed))
        if kept:
            with drawn.open("rb") as lines, whole_file(path, "wb") as file:
                file.writelines(line for index, line in enumerate(lines) if index in kept)
    finally:
        drawn.unlink(missing_ok=True)
    chosen = [stratum for index, stratum in enumerate(strata) if index in kept]
    return {
        "drawn": _by_majority(strata),
        "kept": _by_majority(chosen),
        "by_k": dict(sorted(Counter(k for k, _, _ in chosen).items())),
        "by_num_correct": dict(sorted(Counter(right for _, right, _ in chosen).items())),
    }


def _by_majority(strata: Iterable[tuple[int, int, bool | None]]) -> dict[str, int]:
    names = {True: "easy", False: "hard", None: "unchecked"}
    return dict(Counter(names[right] for *_, right in strata))


class SetFile(Sequence[CandidateSet]):
    """The sets of a JSONL file, each read when it is asked for.

    Raises:
        InvalidRequest: there is no such file, it is empty, or (on use) a line is not a set.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InvalidRequest("refine", f"{path} is no file; `train.build refine` writes it")
        self._path = path
        self._starts: list[int] = []
        with path.open("rb") as file:
            start = 0
            for line in iter(file.readline, b""):
                if line.strip():
                    self._starts.append(start)
                start = file.tell()
        if not len(self):
            raise InvalidRequest("refine", f"{path} holds no set")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> CandidateSet:  # type: ignore[override]  # no slices
        with self._path.open("rb") as file:
            file.seek(self._starts[range(len(self))[index]])
            line = file.readline()
        where = f"{self._path} line {index + 1}"
        try:
            return CandidateSet(**parse_object(line, "refine", where))
        except TypeError as error:
            raise InvalidRequest("refine", f"{where}: {error}") from None
