r"""What an answer states: a number, an expression, words, a tuple, an interval, a list, a matrix.

`same_form` compares two answers. Bases, brackets, the order in a tuple, units and names that both
sides state must agree. A unit or a name that only one side states does not separate them: 90
degrees is 90, and x = 5 is 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from gsr_engine.text import expressions, units
from gsr_engine.text.knights import Roles

Undecided = Callable[[str, str], bool]
"""Is asked about two expressions of which one cannot be evaluated, and that are spelled apart."""


@dataclass(frozen=True, slots=True)
class Form:
    """An answer that is understood; `text` is its cleaned spelling."""

    text: str


@dataclass(frozen=True, slots=True)
class Scalar(Form):
    """An expression, its values (None: it cannot be evaluated) and its unit ("": none stated).

    `number` is its spelling without the unit.
    """

    number: str
    values: expressions.Values | None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Words(Form):
    """Words, letters, or a number in another base: only the spelling counts."""


@dataclass(frozen=True, slots=True)
class Puzzle(Form):
    """The roles of a Knights-and-Knaves puzzle."""

    roles: Roles


@dataclass(frozen=True, slots=True)
class Items(Form):
    """Several answers: `kind` is their brackets, or what joins them."""

    kind: str
    items: tuple[Form, ...]
    ordered: bool


@dataclass(frozen=True, slots=True)
class Equation(Form):
    """The values of left minus right side of an equation that states no name's value."""

    difference: expressions.Values


@dataclass(frozen=True, slots=True)
class Named(Form):
    """A name and what it is or where it lies: x = 5, k >= 2, x in [1, 2).

    `difference` is of both sides, if it is an equation of expressions.
    """

    name: str
    value: Form
    difference: expressions.Values | None = None


def same_form(left: Form, right: Form, undecided: Undecided = lambda _a, _b: False) -> bool:
    """Whether two answers state the same."""
    if left.text == right.text and type(left) is type(right):
        return True
    if isinstance(left, Named) or isinstance(right, Named):
        return _same_named(left, right, undecided)
    if isinstance(left, Scalar) and isinstance(right, Scalar):
        return _same_scalar(left, right, undecided)
    if isinstance(left, Puzzle) and isinstance(right, Puzzle):
        return left.roles == right.roles
    if isinstance(left, Items) and isinstance(right, Items):
        return _same_items(left, right, undecided)
    if isinstance(left, Equation) and isinstance(right, Equation):
        return expressions.proportional(left.difference, right.difference)
    if isinstance(left, Words | Scalar) and isinstance(right, Words | Scalar):
        return left.text == right.text
    return False


def _same_named(left: Form, right: Form, undecided: Undecided) -> bool:
    if isinstance(left, Named) and isinstance(right, Named):
        return left.name == right.name and same_form(left.value, right.value, undecided)
    if isinstance(left, Named):
        return _same_value(left, right, undecided)
    return isinstance(right, Named) and _same_value(right, left, undecided)


def _same_value(named: Named, other: Form, undecided: Undecided) -> bool:
    """Whether y = 2x is what another answer states that names nothing, or is an equation."""
    if isinstance(other, Equation):
        return named.difference is not None and expressions.proportional(
            named.difference, other.difference
        )
    return same_form(named.value, other, undecided)


def _same_scalar(left: Scalar, right: Scalar, undecided: Undecided) -> bool:
    if left.unit and right.unit and left.unit != right.unit:
        return False
    if left.values is None or right.values is None:
        return left.number == right.number or undecided(left.number, right.number)
    if expressions.equal_values(left.values, right.values):
        return True
    # 18% is 18 where a problem asks for a percentage, and 0.18 where it does not.
    if {left.unit, right.unit} == {"", units.PERCENT}:
        factor = Fraction(1, 100) if left.unit else Fraction(100)
        return expressions.equal_values(expressions.scaled(left.values, factor), right.values)
    return False


def _same_items(left: Items, right: Items, undecided: Undecided) -> bool:
    if left.kind != right.kind or len(left.items) != len(right.items):
        return False
    if left.ordered:
        pairs = zip(left.items, right.items, strict=True)
        return all(same_form(one, other, undecided) for one, other in pairs)
    rest = list(right.items)
    for one in left.items:
        found = next((o for o in rest if same_form(one, o, undecided)), None)
        if found is None:
            return False
        rest.remove(found)
    return True
