"""Candidate sets on disk: a JSONL file, which is also what the teacher is asked."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gsr_engine.errors import InvalidRequest
from train.candidate_sets import CandidateSet, balanced


def write_sets(
    path: Path, sets: Iterable[CandidateSet], easy: float | None, seed: int
) -> dict[str, Any]:
    """Write those of the sets that the balance keeps, in their order; returns their counts.

    All are written aside first: how many easy ones are kept is known when all are drawn. See
    `balanced` for `easy` and `seed`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn, partial = path.with_name(f"{path.name}.drawn"), path.with_name(f"{path.name}.partial")
    strata: list[tuple[int, int, bool | None]] = []
    with drawn.open("w", encoding="utf-8") as file:
        for one in sets:
            file.write(json.dumps(one.as_dict(), ensure_ascii=False) + "\n")
            strata.append((len(one.candidates), one.num_correct, one.majority_correct))
    kept = set(balanced([right for *_, right in strata], easy, seed))
    with drawn.open("rb") as lines, partial.open("wb") as file:
        file.writelines(line for index, line in enumerate(lines) if index in kept)
    partial.replace(path)
    drawn.unlink()
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
        InvalidRequest: there is no such file, it is empty, or (on use) a line is no set.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InvalidRequest("refine", f"{path} is no file; `train.build refine` writes it")
        self._path = path
        self._starts = [0]
        with path.open("rb") as file:
            self._starts += [file.tell() for _ in iter(file.readline, b"")]
        if not len(self):
            raise InvalidRequest("refine", f"{path} holds no set")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> CandidateSet:  # type: ignore[override]  # no slices
        with self._path.open("rb") as file:
            file.seek(self._starts[range(len(self))[index]])
            line = file.readline()
        try:
            return CandidateSet(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise InvalidRequest("refine", f"{self._path} line {index + 1}: {error!r}") from None
