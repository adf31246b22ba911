"""Pairs of an answer and a gold whose verdict is known, made from the golds of a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gsr_engine.text.answer_spelling import clean, squeezed
from gsr_engine.text.answers import find_answer
from gsr_engine.text.knights import parse_roles

Kind = Literal["own", "rewritten", "neighbour", "changed"]
KINDS: tuple[Kind, ...] = ("own", "rewritten", "neighbour", "changed")
_NEIGHBOURS = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer, the gold that it is compared with, and whether it is right."""

    kind: Kind
    id: str
    answer: str | None
    gold: str

    @property
    def right(self) -> bool:
        """What a grader should say."""
        return self.kind in ("own", "rewritten")


def pairs_of(ids: Sequence[str], golds: Sequence[str]) -> Iterator[Pair]:
    """All pairs of a file.

    Its own gold in a box and harmless rewritings of it are right. The golds of the next rows that
    are spelled apart, and the gold with its last digit (or its last role) changed, are wrong.
    """
    for row, (name, gold) in enumerate(zip(ids, golds, strict=True)):
        yield Pair("own", name, _boxed(gold), gold)
        for rewriting in REWRITINGS:
            if (other := rewriting(gold)) != gold:
                yield Pair("rewritten", name, _boxed(other), gold)
        for neighbour in golds[row + 1 : row + 1 + _NEIGHBOURS]:
            if squeezed(clean(neighbour)) != squeezed(clean(gold)):
                yield Pair("neighbour", name, _boxed(neighbour), gold)
        if (changed := _changed(gold)) is not None:
            yield Pair("changed", name, _boxed(changed), gold)


def _boxed(answer: str) -> str | None:
    """What is found in a solution that states the answer in a box."""
    return find_answer(f"Therefore the answer is $\\boxed{{{answer}}}$. Done.")


def _roles(gold: str) -> list[tuple[str, bool]]:
    return sorted(parse_roles(gold) or ())


def _sentence(gold: str) -> str:
    """Roles in one sentence, in another order and case."""
    roles = [f"{name} is a {'KNIGHT' if role else 'knave'}" for name, role in _roles(gold)]
    return ", ".join(reversed(roles)) or gold


def _grouped(gold: str) -> str:
    """Roles as two groups of names, as text inside of a formula."""
    roles = _roles(gold)
    knights, knaves = ([name for name, role in roles if role is which] for which in (True, False))
    groups = [("Knights", knights), ("Knaves", knaves)]
    texts = [f"{head}: {', '.join(names)}" for head, names in groups if names]
    return f"\\text{{{'; '.join(texts)}}}" if roles else gold


def _unless_roles(rewrite: Callable[[str], str]) -> Callable[[str], str]:
    return lambda gold: gold if _roles(gold) else rewrite(gold)


def _thousands(gold: str) -> str:
    return f"{int(gold):,}" if re.fullmatch(r"[1-9]\d{3,}", gold) else gold


REWRITINGS: tuple[Callable[[str], str], ...] = (
    lambda gold: f" {gold} .",
    lambda gold: gold.replace("\\frac", "\\dfrac"),
    lambda gold: re.sub(r"(?<!\\)([(\[])(.*)(?<!\\)([)\]])", r"\\left\1\2\\right\3", gold),
    _unless_roles(lambda gold: f"\\displaystyle {gold}"),
    _unless_roles(lambda gold: gold if "$" in gold else f"${gold}$"),
    _unless_roles(lambda gold: re.sub(r"(?<=[=+<>])(?!\s)|(?<!\s)(?=[=+<>])", " ", gold)),
    _unless_roles(lambda gold: re.sub(r"(?<=[^\d\s]),\s*", r",\\ ", gold)),
    _unless_roles(lambda gold: re.sub(r"\\sqrt\s*\{(\d)\}", r"\\sqrt\1", gold)),
    _unless_roles(_thousands),
    _sentence,
    _grouped,
)


def _changed(gold: str) -> str | None:
    """The gold with its last digit one higher, or the last inhabitant in the other role."""
    if _roles(gold):
        *rest, last = re.split(r"(?<=\s)(?=kn)", gold)
        return "".join(rest) + ("knave" if last.startswith("knight") else "knight")
    digits = list(re.finditer(r"\d", gold))
    if not digits:
        return None
    at = digits[-1].start()
    return f"{gold[:at]}{(int(gold[at]) + 1) % 10}{gold[at + 1 :]}"
