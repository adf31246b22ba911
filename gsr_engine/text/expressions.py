r"""Values of LaTeX expressions: two expressions are equal if they have equal values at all points.

A point gives every variable a rational value, drawn from its name. Arithmetic is exact as long as
it is rational; roots, powers and functions have 120 digits. Two expressions that differ are equal
at a random point with a probability of about nothing (Schwartz, 1980; Zippel, 1979). A rounded
expression with variables stands for a function of what is rounded that has no steps.
"""

from __future__ import annotations

import zlib
from fractions import Fraction

import regex

from gsr_engine.text.arithmetic import (
    FUNCTIONS,
    IMAGINARY,
    PI,
    E,
    Function,
    NoValue,
    Number,
    Undefined,
    add,
    apply,
    close,
    divide,
    is_negative,
    logarithm,
    magnitude,
    power,
    product_up_to,
    rounded,
    times,
)

Values = tuple[Number | None, Number | None]
"""At two points. None: the expression has no value there, e.g. the root of a negative variable."""

LONGEST = 1000
"""Longer expressions have no value."""
_DEEPEST = 40

_EXPONENT = r"(?:[eE][-+]?\d{1,4}(?![\d.]))?"
_NUMBER = regex.compile(rf"(?:\d+\.?\d*|\.\d+){_EXPONENT}")
_COMMAND = regex.compile(r"\\(?:[A-Za-z]+|.)")
_REPEATING = regex.compile(r"(\d*\.\d*)\\(?:overline|bar)\{?(\d+)\}?")
_DEGREES = regex.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_DIGITS = r"(?:\{(\d+)\}|(\d))"
_MIXED = regex.compile(rf"\s*(?:\\frac\s*{_DIGITS}\s*{_DIGITS}|(\d+)\s*/\s*(\d+))(?!\d)")
_SUBSCRIPT = regex.compile(r"_(?:\{([^{}]*)\}|(\w|\\[A-Za-z]+))")
_TIMES = ("\\cdot", "\\times", "*")
_OVER = ("/", "\\div")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "|": "|"}
_GREEK = regex.compile(
    r"\\(?:alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|(?:var)?theta|iota|kappa|lambda|mu|nu|xi"
    r"|rho|sigma|tau|upsilon|(?:var)?phi|chi|psi|omega|[A-Z][a-z]+|infty|ell|hbar)"
)


def values(text: str) -> Values | None:
    """The values at two points, the second with negative variables; None if it is no expression."""
    if len(text) > LONGEST:
        return None
    try:
        first, second = _value(text, 1), _value(text, -1)
    except (NoValue, ArithmeticError, ValueError, TypeError):
        return None
    return None if first is None and second is None else (first, second)


def _value(text: str, point: int) -> Number | None:
    try:
        return _Reader(text, point).whole()
    except Undefined:
        return None


def equal_values(left: Values, right: Values) -> bool:
    """Whether two expressions agree at every point where both have a value."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    return bool(pairs) and all(close(a, b) for a, b in pairs)


def scaled(of: Values, factor: Fraction) -> Values:
    """The values times a factor."""
    first, second = (None if one is None else times(one, factor) for one in of)
    return first, second


def proportional(left: Values, right: Values) -> bool:
    """Whether one expression is a multiple of the other, as sides of equal equations are."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a and b]
    ratios = [divide(a, b) for a, b in pairs]
    return len(ratios) == len(left) and all(close(ratio, ratios[0]) for ratio in ratios)


class _Reader:
    """Reads an expression from left to right and computes its value at a point."""

    def __init__(self, text: str, point: int) -> None:
        self._text, self._point = text, point
        self._at = self._depth = self._variables = 0

    def whole(self) -> Number:
        value = self._sum()
        if self._peek():
            raise NoValue
        return value

    def _peek(self) -> str:
        """The next token: a command or one character; "" at the end."""
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        found = _COMMAND.match(self._text, self._at)
        return found[0] if found else self._text[self._at : self._at + 1]

    def _take(self, *tokens: str) -> bool:
        if (token := self._peek()) in tokens and token:
            self._at += len(token)
            return True
        return False

    def _match(self, pattern: regex.Pattern[str]) -> regex.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _sum(self) -> Number:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NoValue
        value: Number = Fraction(0)
        sign, first = 1, True
        while first or self._peek() in ("+", "-"):
            while self._peek() in ("+", "-"):
                sign = -sign if self._take("-") else sign
                self._take("+")
            value = add(value, times(Fraction(sign), self._product()))
            sign, first = 1, False
        self._depth -= 1
        return value

    def _product(self) -> Number:
        value = self._power()
        while True:
            if self._take(*_TIMES):
                value = times(value, self._signed())
            elif self._take(*_OVER):
                value = divide(value, self._signed())
            elif self._starts_factor():
                value = times(value, self._power())
            else:
                return value

    def _signed(self) -> Number:
        """A factor behind a sign of multiplication: it may have a sign of its own."""
        return times(Fraction(-1), self._power()) if self._take("-") else self._power()

    def _starts_factor(self) -> bool:
        token = self._peek()
        if token[:1].isdigit() or token == ".":
            raise NoValue  # two numbers side by side are not one
        return (
            token.isalpha()
            or token in ("(", "[", "{", "\\lfloor", "\\lceil")
            or (
                token.startswith("\\")
                and token[1:].isalpha()
                and token not in ("\\rfloor", "\\rceil")
            )
        )

    def _power(self) -> Number:
        value = self._postfix(self._factor())
        if self._match(_DEGREES):  # of an angle inside of a function
            return times(value, divide(PI, Fraction(180)))
        if self._take("^"):
            value = self._raised(value, self._exponent())
            if self._peek() == "^":
                raise NoValue
            value = self._postfix(value)
        return value

    def _raised(self, base: Number, exponent: Number) -> Number:
        fraction = exponent.denominator if isinstance(exponent, Fraction) else 0
        if is_negative(base) and fraction != 1:
            if fraction % 2:  # an odd root is real
                root = power(times(Fraction(-1), base), exponent)
                return times(Fraction((-1) ** exponent.numerator), root)
            if self._point < 0 or not fraction:  # of constants the other point knows the value
                raise Undefined
        return power(base, exponent)

    def _postfix(self, value: Number) -> Number:
        if self._take("!"):
            if self._peek() == "!":  # a double factorial
                raise NoValue
            value = product_up_to(value)
        return value

    def _exponent(self) -> Number:
        if self._peek() == "{":
            return self._bracket()
        if self._take("-"):
            return times(Fraction(-1), self._exponent())
        return self._factor()

    def _factor(self) -> Number:
        token = self._peek()
        if token.isdigit() or token == ".":
            return self._literal()
        if token in _BRACKETS:
            return self._bracket()
        self._at += len(token)
        if len(token) == 1 and token.isascii() and token.isalpha():
            return self._symbol(token)
        if token.startswith("\\"):
            return self._command(token)
        raise NoValue

    def _literal(self) -> Number:
        if found := self._match(_REPEATING):
            digits, cycle = found[1] + "0" * (found[1] == "."), found[2]
            places = len(found[1]) - found[1].index(".") - 1
            return Fraction(digits) + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10**places)
        found = self._match(_NUMBER)
        if found is None:
            raise NoValue
        number = Fraction(found[0])
        if found[0].isdigit() and (part := _MIXED.match(self._text, self._at)):
            over, under = (int(group) for group in part.groups() if group)
            spaced = part[0][:1].isspace() or "/" not in part[0]
            if over and over < under and spaced:  # 2 1/2 and 2\frac{1}{2} are mixed numbers
                self._at = part.end()
                return number + Fraction(over, under)
        return number

    def _bracket(self) -> Number:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NoValue
        opening = self._peek()
        self._at += len(opening)
        variables = self._variables
        value = self._sum()
        if not self._take(_BRACKETS[opening]):
            raise NoValue
        self._depth -= 1
        if opening == "|":
            return magnitude(value)
        if opening in ("\\lfloor", "\\lceil"):
            up = opening == "\\lceil"
            if self._variables > variables:  # at one point steps of other functions may be equal
                return add(power(value, Fraction(3)), Fraction(1 + up, 7))
            return rounded(value, up=up)
        return value

    def _argument(self) -> Number:
        """Of a fraction or binomial: a group, one digit, one letter or one command."""
        if self._peek() == "{":
            return self._bracket()
        if self._peek().isdigit():
            self._at += 1
            return Fraction(int(self._text[self._at - 1]))
        return self._factor()

    def _command(self, name: str) -> Number:
        if name == "\\frac":
            return divide(self._argument(), self._argument())
        if name == "\\binom":
            n, k = self._argument(), self._argument()
            rest = product_up_to(add(n, times(Fraction(-1), k)))
            return divide(product_up_to(n), times(product_up_to(k), rest))
        if name == "\\sqrt":
            degree = self._bracket() if self._peek() == "[" else Fraction(2)
            base = self._bracket() if self._peek() == "{" else self._factor()
            return self._raised(base, divide(Fraction(1), degree))
        if name == "\\pi":
            return PI
        if name in ("\\log", "\\ln", "\\lg"):
            return self._logarithm(name)
        if name in FUNCTIONS:
            return self._function(FUNCTIONS[name])
        if _GREEK.fullmatch(name):
            return self._symbol(name)
        raise NoValue

    def _logarithm(self, name: str) -> Number:
        base: Number = Fraction(10) if name == "\\lg" else None
        if found := self._match(_SUBSCRIPT):
            base = _Reader(found[1] or found[2], self._point).whole()
        scale = logarithm(base) if base is not None else Fraction(1)
        return self._function(lambda value: divide(logarithm(value), scale))

    def _function(self, function: Function) -> Number:
        exponent = self._exponent() if self._take("^") else Fraction(1)
        if exponent == -1:  # an inverse, not a reciprocal
            raise NoValue
        bracketed = self._peek() in ("(", "[", "{")
        argument = self._bracket() if bracketed else self._open_argument()
        return power(apply(function, argument), exponent)

    def _open_argument(self) -> Number:
        """What follows a function without brackets: factors side by side, up to a sign."""
        value = self._power()
        while self._starts_factor() and self._peek() not in FUNCTIONS:
            value = times(value, self._power())
        return value

    def _symbol(self, name: str) -> Number:
        if found := self._match(_SUBSCRIPT):
            name += "_" + (found[1] or found[2] or "").replace(" ", "")
        if name == "i":
            return IMAGINARY
        if name == "e":
            return E
        self._variables += 1
        draw = zlib.crc32(f"{name} {self._point}".encode())
        return self._point * Fraction(100_000 + draw % 899_981, 1009)
