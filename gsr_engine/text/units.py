"""Units behind or before a number: one spelling for each."""

from __future__ import annotations

import regex

from gsr_engine.text.answer_spelling import TEXT, squeezed, unwrapped

PERCENT = "%"

_SPELLINGS = {
    PERCENT: "percent percents percentage %",
    "$": "dollar dollars usd $",
    "cent": "cent cents ¢",
    "€": "euro euros eur €",
    "£": "pound pounds gbp £",
    "degree": "degree degrees deg °",
    "in": "inch inches in",
    "ft": "foot feet ft",
    "yd": "yard yards yd",
    "mi": "mile miles mi",
    "mm": "millimeter millimeters millimetre millimetres mm",
    "cm": "centimeter centimeters centimetre centimetres cm",
    "m": "meter meters metre metres m",
    "km": "kilometer kilometers kilometre kilometres km",
    "g": "gram grams g",
    "kg": "kilogram kilograms kg",
    "mg": "milligram milligrams mg",
    "lb": "lb lbs",
    "oz": "ounce ounces oz",
    "s": "second seconds sec secs s",
    "min": "minute minutes min mins",
    "h": "hour hours hr hrs h",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "l": "liter liters litre litres l",
    "ml": "milliliter milliliters millilitre millilitres ml",
    "gal": "gallon gallons gal",
    "unit": "unit units",
    "mph": "mph",
    "rad": "radian radians rad",
}
_NAMES = {word: name for name, words in _SPELLINGS.items() for word in words.split()}
_BARE = "|".join(sorted((word for word in _NAMES if len(word) > 1), key=len, reverse=True))
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_BEFORE = regex.compile(r"([-+]?)\s*(\\\$|\$|€|£|\\pounds)\s*(.+)", regex.DOTALL)
_AFTER = regex.compile(
    rf"(?P<number>.*?[^\s^_])\s*(?:"
    rf"(?P<sign>\\?%|°|¢|€)|\^\s*\{{?\s*\\circ\s*\}}?(?P<scale>\s*[CF])?"
    rf"|(?P<text>{TEXT.pattern})(?P<power>\^\{{?\d\}}?)?"
    rf"|(?<![A-Za-z\\])(?P<bare>(?:(?:square|sq\.?|cubic|cu\.?)\s+)?(?:{_BARE})(?:\s+(?:squared|cubed))?)"
    rf"(?P<bare_power>\^\{{?\d\}}?)?)",
    regex.DOTALL,
)

_OF_AN_ANGLE = regex.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")


def split_unit(text: str) -> tuple[str, str]:
    """A number without its unit, and the unit's name; "" if it has none."""
    if found := _BEFORE.fullmatch(text):
        number, unit = split_unit(found[3])
        return found[1] + number, unit or _NAMES.get(found[2].lstrip("\\"), "£")
    found = _AFTER.fullmatch(text)
    if not found:
        return text, ""
    number = found["number"]
    if found["sign"]:
        return number, _NAMES[found["sign"].lstrip("\\")]
    if found["text"]:
        return number, _unit(unwrapped(found["text"]), found["power"])
    if found["bare"]:
        return number, _unit(found["bare"], found["bare_power"])
    if _OF_AN_ANGLE.search(number):
        return text, ""  # the degrees belong to the angle
    return number, "degree" + (found["scale"] or "").strip()


def _unit(words: str, power: str | None) -> str:
    """One spelling: "square feet" and "ft^2" are "ft^2"."""
    exponent = int(squeezed(power).strip("^{}")) if power else 1
    names = []
    for word in regex.findall(r"[^\s.]+", words.casefold()):
        if word in _POWERS:
            exponent = _POWERS[word]
        else:
            word, _, own = word.partition("^")
            exponent = int(own) if own.isdigit() else exponent
            names.append(_NAMES.get(word, word))
    return " ".join(names) + (f"^{exponent}" if exponent != 1 else "")
