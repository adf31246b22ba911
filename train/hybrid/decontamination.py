"""Problems that must not be learnt from: evaluation problems and duplicates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from gsr_engine.errors import InvalidRequest
from gsr_engine.text.knights import FORM
from train.problems import Problem

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts without spaces between words: each of their characters counts as a word."""
_TOKEN = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[\w--[{_UNSPACED}]]+|[^\w\s$]", regex.VERSION1)
_SENTENCE = frozenset(".,:;?!。，：；？！、\"'“”‘’«»")


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a problem is left out.

    Attributes:
        reason: "ngram": it shares `text` with an evaluation problem. "exact": it is or holds a
            whole evaluation problem that is too short for an n-gram. "duplicate": it came earlier
            in the set.
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

    Words are runs of letters and digits without case, or single characters of scripts without
    spaces. An evaluation problem of fewer than `n` words is found where all of it stands, between
    words or marks of a sentence: with its operators, and not as a part of a longer formula.
    Duplicates are found if the texts are equal. Case, spaces, dollar signs and the punctuation at
    the end do not count.

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
        self._short: dict[str, list[_Short]] = {}
        for name, problems in evaluation.items():
            for problem in problems:
                found = (name, problem.id)
                self._exact.setdefault(normalise_problem(problem.text), found)
                tokens = _tokens(problem.text)
                ngrams = list(self._ngrams_of(tokens))
                for ngram in ngrams:
                    self._ngrams.setdefault(ngram, found)
                while tokens and tokens[-1] in _SENTENCE:
                    tokens.pop()
                if tokens and not ngrams:
                    self._short.setdefault(tokens[0], []).append(_Short(tokens, *found))

    def _ngrams_of(self, tokens: Sequence[str]) -> Iterator[str]:
        words = [token for token in tokens if _is_word(token)]
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
        tokens = _tokens(problem.text) if self._ngrams or self._short else []
        for ngram in self._ngrams_of(tokens) if self._ngrams else ():
            if ngram in self._ngrams:
                return Finding(problem.id, "ngram", *self._ngrams[ngram], ngram)
        if text in self._exact:
            return Finding(problem.id, "exact", *self._exact[text], problem.text)
        for start, first in enumerate(tokens):
            for short in self._short.get(first, ()):
                if short.stands_at(tokens, start):
                    return Finding(
                        problem.id, "exact", short.set_name, short.id, " ".join(short.tokens)
                    )
        return None


@dataclass(frozen=True, slots=True)
class _Short:
    """An evaluation problem that is too short for an n-gram."""

    tokens: list[str]
    set_name: str
    id: str

    def stands_at(self, tokens: Sequence[str], start: int) -> bool:
        """Whether all of it stands there, and no formula goes on before or behind it."""
        stop = start + len(self.tokens)
        around = [*tokens[max(start - 1, 0) : start], *tokens[stop : stop + 1]]
        return tokens[start:stop] == self.tokens and all(
            token in _SENTENCE or (token.isalpha() and not _is_variable(token)) for token in around
        )


def _tokens(text: str) -> list[str]:
    """Words and every other mark, in lower case, without the sentence that a reader adds."""
    found: list[str] = _TOKEN.findall(text.replace(FORM, "").casefold())
    return found


def _is_word(token: str) -> bool:
    return token[0].isalnum() or token[0] == "_"


def _is_variable(token: str) -> bool:
    return len(token) == 1 and token.isascii()


def normalise_problem(text: str) -> str:
    """A spelling without case, spaces, dollar signs and the punctuation at the end."""
    return re.sub(r"[\s$]+", "", text.casefold()).rstrip(".:?!")
