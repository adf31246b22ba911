"""What a hybrid set is made from, as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.decontamination import Decontamination
from train.hybrid import Ingredients
from train.materials import TargetOf, drawn_from, own_solution
from train.problems import load_problems
from train.samples import SampleFilter, SamplePool, read_records, sample_files
from train.set_file import SetFile


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridFiles:
    """The files of a build, and how they are read.

    Attributes:
        problems: JSONL.
        refine: candidate sets; None makes direct rows alone.
        direct_targets, refine_targets: samples (folders or JSONL) for problems and for sets; where
            there are none, the problems' own solutions are the targets. Right ones that came to
            their end are kept, and one of each prompt is drawn.
        evaluation: JSONL of problems that must not be learnt from.
        ngram: words that a problem may not share with one of them.
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
