"""The inputs of a hybrid set: files and settings, and what is read from the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from gsr_engine.params import LAYOUTS, Layout
from train.hybrid.candidate_sets import CandidateSet, SetFile
from train.hybrid.decontamination import Decontamination, Finding
from train.hybrid.materials import (
    TargetOf,
    drawn_from,
    own_solution,
)
from train.hybrid.sample_pool import SampleFilter, SamplePool
from train.options import check_least
from train.problems import Problem, load_problems
from train.samples import read_records, sample_files


@dataclass(frozen=True, kw_only=True)
class HybridFiles:
    """The files of a build, and how they are read.

    Attributes:
        problems: JSONL of problems: id, problem, answer, solution, source.
        refine: candidate sets, as `train.build refine` writes them; None makes direct rows alone.
        direct_targets: samples for the problems, a folder or JSONL; without, their own solutions.
            Right samples that came to their end are kept, and one of each prompt is drawn.
        refine_targets: the same for the sets; without, the solutions of their problems.
        evaluation: JSONL files of problems that must not be learnt from.
        ngram: words in a row that a problem must not share with an evaluation problem.
        keep_unchecked: keep targets of problems without a gold answer.
    """

    problems: Path
    refine: Path | None = None
    direct_targets: Path | None = None
    refine_targets: Path | None = None
    evaluation: tuple[Path, ...] = ()
    ngram: int = 13
    keep_unchecked: bool = False

    def __post_init__(self) -> None:
        """Raise InvalidRequest for files that do not go together."""
        if self.refine_targets and not self.refine:
            raise InvalidRequest(
                "refine", "must be given with refine_targets: they answer its sets"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """How the files are read."""
        return {
            "decontaminate": [str(path) for path in self.evaluation],
            "ngram": self.ngram,
            "keep_unchecked": self.keep_unchecked,
            "own_solutions": {
                "direct": self.direct_targets is None,
                "refine": self.refine_targets is None,
            },
        }

    def paths(self) -> Iterator[Path]:
        """Every file that is read.

        Raises:
            InvalidRequest: one is not there.
        """
        direct, refine = self.direct_targets, self.refine_targets
        groups = {
            "problems": [self.problems],
            "refine": [self.refine] if self.refine else [],
            "decontaminate": self.evaluation,
            "direct_targets": sample_files(direct) if direct else [],
            "refine_targets": sample_files(refine) if refine else [],
        }
        for name, paths in groups.items():
            for path in paths:
                if not path.is_file():
                    raise InvalidRequest(name, f"{path} is no file")
                yield path

    def ingredients(self, work: Path, seed: int) -> Ingredients:
        """Read them; samples are kept in the folder `work`, and drawn by the seed.

        Raises:
            InvalidRequest: a file is missing or does not hold what it should.
        """
        evaluation = {str(path): load_problems(path) for path in self.evaluation}
        check = Decontamination(evaluation, self.ngram)
        kept, findings = check.split(load_problems(self.problems))
        dropped: Counter[str] = Counter()

        def targets(name: str, samples: Path | None) -> TargetOf:
            if samples is None:
                return own_solution
            keep = SampleFilter(unchecked=self.keep_unchecked)
            pool = SamplePool(work / f"{name}.samples", read_records(samples), keep)
            dropped.update({f"{name} target: {reason}": n for reason, n in pool.dropped.items()})
            return drawn_from(pool, seed)

        return Ingredients(
            problems=kept,
            sets=SetFile(self.refine) if self.refine else (),
            direct_target=targets("direct", self.direct_targets),
            refine_target=targets("refine", self.refine_targets),
            findings=findings,
            dropped=dropped,
        )


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """How rows are made of problems, sets and targets.

    Attributes:
        layouts: of refinement rows.
        in_turn: each set takes the next of `layouts`; a layout that comes several times weighs
            more. Otherwise each set makes a row in every layout.
        mix: share of direct rows in the training split, exact to one row. The objective with too
            many rows loses some, drawn by the seed. The held-out split stays whole.
        rows: most rows of the training split; more are dropped as for the mix. None keeps all.
        max_tokens: longest row; longer ones are dropped.
        held_out: share of the problems, by a hash of their ids alone, whose rows are not learnt.
        seed: of the rows that the mix drops, and of the choice among targets.
    """

    layouts: tuple[Layout, ...] = LAYOUTS
    in_turn: bool = False
    mix: float = 0.5
    rows: int | None = None
    max_tokens: int = 16_384
    held_out: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if not self.layouts or set(self.layouts) - set(LAYOUTS):
            raise InvalidRequest("layouts", f"must be of {LAYOUTS}, got {self.layouts}")
        if not self.in_turn and len(set(self.layouts)) < len(self.layouts):
            raise InvalidRequest("layouts", "one comes twice, which means something only in turn")
        if not 0 <= self.mix <= 1:
            raise InvalidRequest("mix", f"must be between 0 and 1, got {self.mix}")
        if not 0 <= self.held_out < 1:
            raise InvalidRequest("held_out", f"must be at least 0 and below 1, got {self.held_out}")
        check_least(self, rows=1, max_tokens=1, seed=0)

    @property
    def turns(self) -> list[tuple[Layout, ...]]:
        """The layouts of one set after another."""
        return [(one,) for one in self.layouts] if self.in_turn else [self.layouts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """Problems, sets and targets that a hybrid set is made from.

    Attributes:
        problems: to learn from; a set of another problem is left out.
        sets: candidate sets, in the order of their rows.
        direct_target, refine_target: the target of a problem, and of a set.
        findings: problems that were left out, for the report.
        dropped: other omissions so far by reason, for the card.
    """

    problems: Sequence[Problem]
    sets: Sequence[CandidateSet] = ()
    direct_target: TargetOf = own_solution
    refine_target: TargetOf = own_solution
    findings: Sequence[Finding] = ()
    dropped: Counter[str] = field(default_factory=Counter)
