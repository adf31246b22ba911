"""Numbers of expressions: exact as long as they are rational, else with 120 digits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, factorial, floor
from typing import Any

import mpmath

Number = Any
"""A Fraction, or a complex number of mpmath, which has no types."""

_CONTEXT = mpmath.mp.clone()  # digits of our own; other users of mpmath keep theirs
_CONTEXT.dps = 120
_CLOSE_BITS = 200
_MOST_BITS = 50_000
_MOST = 100_000
"""Largest exponent, and largest argument of a function."""
_MOST_FACTORIAL = 2000

PI, E, IMAGINARY = _CONTEXT.mpc(_CONTEXT.pi), _CONTEXT.mpc(_CONTEXT.e), _CONTEXT.mpc(0, 1)

Function = Callable[[Number], Number]
FUNCTIONS: dict[str, Function] = {
    **{f"\\{name}": getattr(_CONTEXT, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"\\{name}": getattr(_CONTEXT, name) for name in ("sinh", "cosh", "tanh", "exp")},
    **{f"\\arc{name}": getattr(_CONTEXT, f"a{name}") for name in ("sin", "cos", "tan")},
}
"""By LaTeX command; `apply` calls them."""


class NoValue(Exception):
    """The text is no expression that can be evaluated."""


class Undefined(NoValue):
    """The expression has no real value at this point."""


def close(left: Number, right: Number) -> bool:
    """Whether two numbers are equal: exactly if both are rational, else to 60 digits."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    one, other = inexact(left), inexact(right)
    # A vote compares every answer with every group: `mag`, log2 about, takes a quarter of the time
    # of norms and products. Below the floor all numbers are 0.
    mag = _CONTEXT.mag
    return bool(mag(one - other) <= max(mag(one), mag(other), -_CLOSE_BITS) - _CLOSE_BITS)


def inexact(value: Number) -> Number:
    """The number as one of mpmath."""
    if isinstance(value, Fraction):
        return _CONTEXT.mpc(value.numerator) / value.denominator
    return value


def is_negative(value: Number) -> bool:
    """Whether it is a real number below 0."""
    number = inexact(value)
    return bool(number.imag == 0 and number.real < 0)


def _finite(value: Number) -> Number:
    if not _CONTEXT.isfinite(value):
        raise NoValue
    return _CONTEXT.mpc(value)


def add(left: Number, right: Number) -> Number:
    """The sum."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left + right
    return inexact(left) + inexact(right)


def times(left: Number, right: Number) -> Number:
    """The product."""
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left * right
    return inexact(left) * inexact(right)


def divide(left: Number, right: Number) -> Number:
    """The quotient."""
    if not right:
        raise NoValue
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left / right
    return inexact(left) / inexact(right)


def power(base: Number, exponent: Number) -> Number:
    """The power; the principal one of a negative base."""
    if abs(inexact(exponent)) > _MOST or (not base and inexact(exponent).real <= 0):
        raise NoValue
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        bits = max(abs(base.numerator), base.denominator).bit_length() * abs(exponent)
        if bits <= _MOST_BITS:
            return base ** int(exponent)
    return _finite(_CONTEXT.power(inexact(base), inexact(exponent)))


def product_up_to(value: Number) -> Number:
    """The factorial; between whole numbers by the gamma function."""
    if isinstance(value, Fraction) and value.denominator == 1:
        if not 0 <= value <= _MOST_FACTORIAL:
            raise NoValue
        return Fraction(factorial(int(value)))
    return apply(lambda number: _CONTEXT.gamma(number + 1), value)


def magnitude(value: Number) -> Number:
    """The absolute value."""
    return abs(value) if isinstance(value, Fraction) else _CONTEXT.mpc(abs(value))


def rounded(value: Number, *, up: bool) -> Number:
    """The next whole number."""
    how = ceil if up else floor
    if isinstance(value, Fraction):
        return Fraction(how(value))
    if value.imag or abs(value) > _MOST:
        raise NoValue
    return Fraction(int((_CONTEXT.ceil if up else _CONTEXT.floor)(value.real)))


def logarithm(value: Number) -> Number:
    """The natural logarithm of a positive number."""
    number = inexact(value)
    if number.imag == 0 and number.real <= 0:
        raise Undefined
    return _CONTEXT.log(number)


def apply(function: Function, value: Number) -> Number:
    """A function of a number that is not too large for its time."""
    number = inexact(value)
    if abs(number) > _MOST:
        raise NoValue
    return _finite(function(number))
