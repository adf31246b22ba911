r"""Reads what an answer states.

Numbers are read before anything is dropped, and only what is certainly one number is one: `2 1/2`
is 5/2, `1,234` is 1234, and `1, 234` is a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import regex

from gsr_engine.text import expressions
from gsr_engine.text.answer_forms import Equation, Form, Items, Named, Puzzle, Scalar, Words
from gsr_engine.text.answer_spelling import TEXT, clean, squeezed, unwrapped
from gsr_engine.text.knights import parse_roles
from gsr_engine.text.units import split_unit

LONGEST = 2000
"""Longer answers are compared by their spelling: no gold answer is near it."""
_DEEPEST = 8
_MOST_ITEMS = 64


@lru_cache(maxsize=4096)
def parse_answer(answer: str) -> Form:
    """What an answer states. Any text is one."""
    roles = parse_roles(answer)
    if roles is not None:
        return Puzzle(squeezed(answer), roles)
    text = clean(answer)
    return _parse(text, 0) if len(answer) <= LONGEST else Words(squeezed(text))


_TOKEN = regex.compile(rf"\\begin\{{|\\end\{{|\\[A-Za-z]+|\\.|{TEXT.pattern}|.", regex.DOTALL)
_OPENS = frozenset(("(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle"))
_CLOSES = frozenset((")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle"))
_RELATIONS = {
    "=": "=", "\\approx": "=", "\\in": "in", "<": "<", ">": ">", "\\lt": "<", "\\gt": ">",
    "\\le": "<=", "\\ge": ">=",
}  # fmt: skip


def _opened(token: str) -> int:
    """Brackets that a token opens; the beginning and the end of a matrix have a name in braces."""
    if token == "\\begin{":
        return 2
    return (token in _OPENS) - (token in _CLOSES)


def _split(text: str, separators: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside of all brackets, and these separators."""
    parts, found, depth = [""], [], 0
    for token in _TOKEN.findall(text):
        depth += _opened(token)
        if depth == 0 and token in separators:
            found.append(token)
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts], found


def _parse(text: str, depth: int) -> Form:
    spelled = squeezed(text)
    if depth > _DEEPEST:
        return Scalar(spelled, spelled, None)
    for separators, kind in (((",", ";", "\n"), "list"), (("\\cup",), "cup")):
        parts, _ = _split(text, separators)
        parts = [part for part in parts if part]
        if len(parts) > 1:
            return _items(spelled, kind, parts, depth, ordered=False)
        text = parts[0] if parts else text
    parts, relations = _split(text, tuple(_RELATIONS))
    if relations and all(parts):
        return _related(parts, [_RELATIONS[one] for one in relations], spelled, depth)
    for read in (_bracketed, _matrix, _plus_minus):
        form = read(text, spelled, depth)
        if form is not None:
            return form
    return _single(text, spelled, depth)


def _items(text: str, kind: str, parts: Sequence[str], depth: int, *, ordered: bool) -> Form:
    if len(parts) > _MOST_ITEMS:
        return Scalar(text, text, None)
    return Items(text, kind, tuple(_parse(part, depth + 1) for part in parts), ordered)


def _related(parts: list[str], relations: list[str], text: str, depth: int) -> Form:
    if set(relations) == {"="}:
        if _is_name(parts[0]):
            value = _parse(parts[-1], depth + 1)
            return Named(text, _name(parts[0]), value, _difference(parts[0], parts[-1]))
        return _equation(parts[0], parts[-1], text)
    if relations == ["in"] and _is_name(parts[0]):
        return Named(text, _name(parts[0]), _parse(parts[1], depth + 1))
    if set(relations) <= {">", ">="}:
        parts, relations = parts[::-1], [one.replace(">", "<") for one in relations[::-1]]
    if set(relations) <= {"<", "<="} and len(parts) < 4:
        interval = _interval(parts, relations, text, depth)
        if interval is not None:
            return interval
    return _items(text, " ".join(relations), parts, depth, ordered=True)


def _interval(parts: list[str], relations: list[str], text: str, depth: int) -> Form | None:
    """1 < x <= 3 is x in (1, 3]."""
    if len(parts) == 3 and _is_name(parts[1]):
        name, (low, high), ends = parts[1], (parts[0], parts[2]), tuple(relations)
    elif len(parts) == 2 and _is_name(parts[0]):
        name, (low, high), ends = parts[0], ("-\\infty", parts[1]), ("<", relations[0])
    elif len(parts) == 2 and _is_name(parts[1]):
        name, (low, high), ends = parts[1], (parts[0], "\\infty"), (relations[0], "<")
    else:
        return None
    kind = ("(" if ends[0] == "<" else "[") + (")" if ends[1] == "<" else "]")
    spelled = f"{kind[0]}{squeezed(low)},{squeezed(high)}{kind[1]}"
    return Named(text, _name(name), _items(spelled, kind, (low, high), depth, ordered=True))


_NAME = regex.compile(r"(?!\d)[^-+*/^=\d!]*(?:[(_][^-+*/^=!]*)*")
_LETTER = regex.compile(r"[A-Za-z]|\\[A-Za-z]+|" + TEXT.pattern)


def _is_name(text: str) -> bool:
    """x, f(x), m_{max}, (x, y), |S|, Area; not 2x, x^2, 5, pi or infinity."""
    bare = squeezed(text)
    if bare in ("\\pi", "e", "i") or bare.startswith(("\\frac", "\\sqrt")) or "\\infty" in bare:
        return False
    return bool(_NAME.fullmatch(bare)) and bool(_LETTER.search(bare))


def _name(text: str) -> str:
    return squeezed(unwrapped(text)).replace("{", "").replace("}", "")


def _equation(left: str, right: str, text: str) -> Form:
    one, other = expressions.values(left), expressions.values(right)
    if one and other and expressions.equal_values(one, other):  # 2 + 3 = 5 states 5
        return Scalar(squeezed(right), squeezed(right), other)
    difference = _difference(left, right)
    return Equation(text, difference) if difference else Scalar(text, text, None)


def _difference(left: str, right: str) -> expressions.Values | None:
    return expressions.values(f"({left})-({right})")


_CLOSING = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\langle": ("\\rangle",)}


def _bracketed(text: str, spelled: str, depth: int) -> Form | None:
    """A tuple, an interval, a set, or one answer in brackets."""
    tokens = _TOKEN.findall(text)
    if len(tokens) < 3 or tokens[-1] not in _CLOSING.get(tokens[0], ()):
        return None
    inner = text[len(tokens[0]) : -len(tokens[-1])]
    # One pair of brackets around everything: (1)(2) and (1,2),(3,4) are none.
    levels = 0
    for token in tokens[:-1]:
        levels += _opened(token)
        if not levels:
            return None
    parts = [part for part in _split(inner, (",", ";"))[0] if part]
    kind = tokens[0] + tokens[-1]
    if kind in ("()", "[]") and len(parts) < 2:
        return _parse(inner.strip(), depth + 1)
    if not parts:
        return None
    return _items(spelled, kind, parts, depth, ordered=kind != "\\{\\}")


_MATRIX = regex.compile(
    r"\\begin\{([pbBvV]?(?:small)?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", regex.DOTALL
)


def _matrix(text: str, spelled: str, depth: int) -> Form | None:
    found = _MATRIX.fullmatch(text)
    if not found:
        return None
    rows = [row for row in _split(found[2], ("\\\\",))[0] if row]
    cells = [_split(row, ("&",))[0] for row in rows]
    if not cells or len({len(row) for row in cells}) > 1:
        return None
    kind = "determinant" if found[1] in ("vmatrix", "Vmatrix") else "matrix"
    flat = [cell for row in cells for cell in row]
    return _items(spelled, f"{kind} {len(cells)}x{len(cells[0])}", flat, depth, ordered=True)


def _plus_minus(text: str, spelled: str, depth: int) -> Form | None:
    """1 ± x states 1 + x and 1 - x."""
    if not regex.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        return None
    signs = (("+", "-"), ("-", "+"))
    both = [text.replace("\\pm", upper).replace("\\mp", lower) for upper, lower in signs]
    return _items(spelled, "list", both, depth, ordered=False)


_BASED = regex.compile(r"\(?(\d[\dA-Za-z]*)\)?_\{?(\d+|[a-z]+)\}?")
_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "sixteen": "16",
}


def _single(text: str, spelled: str, depth: int) -> Form:
    bare = unwrapped(text).strip()
    if bare != text and TEXT.fullmatch(text):  # all of it is text: what does it say?
        return _parse(clean(bare), depth + 1)
    based = regex.sub(r"base", "", squeezed(bare))
    if found := _BASED.fullmatch(based):
        return Words(f"{found[1].upper()}_{_BASES.get(found[2], found[2])}")
    number, unit = split_unit(text)
    if not unit and regex.fullmatch(r"\p{L}[\p{L}\p{M}'’ .-]*", bare):
        return _words(bare)
    return Scalar(spelled, squeezed(number), expressions.values(number), unit)


def _words(text: str) -> Form:
    """Letters: at most two small ones are variables, capitals are names of points or choices."""
    if len(text) == 1 or (len(text) == 2 and text.islower()):
        return Scalar(text, text, expressions.values(text))
    return Words(squeezed(text).casefold())
