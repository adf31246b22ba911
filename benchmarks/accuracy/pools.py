"""What a refinement is given to read: the first candidates, in some order, or with strangers.

A method of kind `mixed` keeps the first own candidates and replaces the last n = share * k:

- weak: the candidate of the same number that the weaker model wrote.
- foreign: the candidate of the same number of the next problem of the same size, the last problem
  being followed by the first. A problem alone in its size takes the next one of any size.
- truncated: the own candidate's first half, by tokens (by characters, if it has only a text).
- corrupted: the own candidate with another answer. This is the first wrong one that differs from
  its own, of the other own candidates, else of the foreign ones. It takes the place of the
  candidate's answer wherever that stands in the text with no letter, digit or point beside it.
  A candidate stays as it is, and counts as "own", if it states no answer, if the answer does not
  stand in its text letter by letter, or if no other wrong answer is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks.samples.method import Method, Pool
from benchmarks.samples.sample import Answer, Solution
from gsr_engine.text.answers import same_answer

SameAsGold = Callable[[str], bool]
"""Whether an answer is the problem's gold one."""


class Given(NamedTuple):
    """One solution that a refinement reads, its number among the candidates, and its pool."""

    solution: Solution
    number: int
    pool: Pool = "own"


class Pools(NamedTuple):
    """The candidates that a problem's refinements may read, each pool in the order of drawing.

    `weak` is empty without a weaker model, `foreign` if there is no other problem.
    """

    own: Sequence[Solution]
    weak: Sequence[Solution] = ()
    foreign: Sequence[Solution] = ()


def given_to(
    method: Method, pools: Pools, right: SameAsGold, plain: Answer | None = None
) -> list[Given]:
    """What a method reads, in the order of numbers; an order above 0 turns it.

    Args:
        method: any that refines.
        pools: the candidates.
        right: tells right answers from wrong ones.
        plain: selfRef's answer at the same k. Order n begins with the n-th after the first that it
            read, and ends with those before: each candidate stands in each place once. If it read
            fewer than k, because others showed nothing, orders come again.
    """
    own = [Given(one, number) for number, one in enumerate(pools.own[: method.k])]
    if method.kind == "repeated":
        return own[:1] * method.k
    if method.kind == "orders":
        read = plain.used if plain is not None else []
        shift = method.order % len(read) if read else 0
        return [own[number] for number in [*read[shift:], *read[:shift]]]
    if method.kind == "mixed":
        kept = method.k - round(method.share * method.k)
        return [*own[:kept], *(_stranger(method.pool, one, pools, right) for one in own[kept:])]
    return own


def _stranger(pool: Pool, own: Given, pools: Pools, right: SameAsGold) -> Given:
    solution, number = own.solution, own.number
    if pool in ("weak", "foreign"):
        others = pools.weak if pool == "weak" else pools.foreign
        return Given(others[number], number, pool) if number < len(others) else own
    if pool == "truncated":
        return Given(truncated(solution), number, pool)
    others = [*pools.own[:number], *pools.own[number + 1 :], *pools.foreign]
    wrong = corrupted(solution, [one.answer for one in others if one.answer], right)
    return own if wrong is None else Given(wrong, number, pool)


def truncated(solution: Solution) -> Solution:
    """The first half of a solution, which states no answer; an engine reads ids, a server text."""
    ids, text = solution.token_ids, solution.text
    half_ids, half_text = ids[: len(ids) // 2], text[: len(text) // 2]
    return replace(solution, token_ids=half_ids, text=half_text, answer=None)


def corrupted(solution: Solution, answers: Sequence[str], right: SameAsGold) -> Solution | None:
    """The solution with the first of these answers that is wrong and another; None if it cannot be.

    It has a text and no ids.
    """
    answer = solution.answer
    other = next((one for one in answers if not same_answer(one, answer) and not right(one)), None)
    if answer is None or other is None:
        return None
    stands = re.compile(rf"(?<![\w.]){re.escape(answer)}(?!\w|\.\d)")
    text, count = stands.subn(lambda _: other, solution.text)
    if not count:
        return None
    return replace(solution, text=text, answer=other, token_ids=[], logprobs=[])


def foreign_of(indices: Sequence[int], sizes: Sequence[str]) -> dict[int, int]:
    """For each of some problems the one whose candidates are its foreign ones.

    Args:
        indices: of the problems, in order.
        sizes: of all problems.

    Returns:
        A problem by each index; none if there is only one.
    """
    by_size: dict[str, list[int]] = {}
    for index in indices:
        by_size.setdefault(sizes[index], []).append(index)
    following: dict[int, int] = {}
    for group in (indices, *by_size.values()):  # its size comes last, and so counts
        if len(group) > 1:
            following |= dict(zip(group, [*group[1:], group[0]], strict=True))
    return following
