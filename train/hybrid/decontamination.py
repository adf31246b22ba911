"""Problems that must not be learnt from: evaluation problems and duplicates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gsr_engine.errors import InvalidRequest
from train.problems import Problem

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a problem is left out.

    Attributes:
        reason: "ngram": it shares `text` with an evaluation problem. "exact": it is an evaluation
            problem that is too short for an n-gram. "duplicate": it came earlier in the set.
        found_in: name of the evaluation set, "" for a duplicate.
        found_id: the evaluation problem, or the earlier one.
        text: the words that are shared.
    """

    problem_id: str
    reason: Literal["ngram", "exact", "duplicate"]
    found_in: str
    found_id: str
    text: str


class Decontamination:
    """Finds evaluation problems by n-grams of words, and duplicates.

    Words are runs of letters and digits without case. Evaluation problems of fewer than `n` words,
    and duplicates, are found only if the texts are equal. Case, spaces, dollar signs and the
    punctuation at the end do not count.

    Args:
        evaluation: problems by name of their set.
        n: words of an n-gram.
    """

    def __init__(self, evaluation: Mapping[str, Sequence[Problem]], n: int) -> None:
        if n < 1:
            raise InvalidRequest("ngram", f"must be at least 1 word, got {n}")
        self._n = n
        self._ngrams: dict[str, tuple[str, str]] = {}
        self._exact: dict[str, tuple[str, str]] = {}
        for name, problems in evaluation.items():
            for problem in problems:
                self._exact.setdefault(normalise_problem(problem.text), (name, problem.id))
                for ngram in self._ngrams_of(problem.text):
                    self._ngrams.setdefault(ngram, (name, problem.id))

    def _ngrams_of(self, text: str) -> Iterator[str]:
        words = _WORD.findall(text.casefold())
        for start in range(len(words) - self._n + 1):
            yield " ".join(words[start : start + self._n])

    def split(self, problems: Iterable[Problem]) -> tuple[list[Problem], list[Finding]]:
        """The problems to learn from, in their order, and the findings about the others."""
        kept: list[Problem] = []
        findings: list[Finding] = []
        seen: dict[str, str] = {}
        for problem in problems:
            text = normalise_problem(problem.text)
            finding = self._in_evaluation(problem, text)
            if finding is None and text in seen:
                finding = Finding(problem.id, "duplicate", "", seen[text], problem.text)
            if finding is None:
                seen[text] = problem.id
                kept.append(problem)
            else:
                findings.append(finding)
        return kept, findings

    def _in_evaluation(self, problem: Problem, text: str) -> Finding | None:
        for ngram in self._ngrams_of(problem.text) if self._ngrams else ():
            if ngram in self._ngrams:
                return Finding(problem.id, "ngram", *self._ngrams[ngram], ngram)
        if text in self._exact:
            return Finding(problem.id, "exact", *self._exact[text], problem.text)
        return None


def normalise_problem(text: str) -> str:
    """A spelling without case, spaces, dollar signs and the punctuation at the end."""
    return re.sub(r"[\s$]+", "", text.casefold()).rstrip(".:?!")
