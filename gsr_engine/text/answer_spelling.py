r"""One spelling of LaTeX that means the same: `\dfrac` is `\frac`, `\left(` is `(`, π is `\pi`."""

from __future__ import annotations

import regex

_OPEN, _CLOSE = "\ue000", "\ue001"
TEXT = regex.compile(f"{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}")
r"""What `\text{...}` holds, in marks of our own."""

_CHARACTERS = str.maketrans(
    {
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},
        "−": "-",
        "–": "-",
        "×": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "\\div ",
        "⁄": "/",
        "π": "\\pi ",
        "∞": "\\infty ",
        "√": "\\sqrt ",
        "∪": "\\cup ",
        "∈": "\\in ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "±": "\\pm ",
        "°": "^\\circ ",
        "≈": "\\approx ",
        "½": "\\frac{1}{2}",
        "¼": "\\frac{1}{4}",
        "¾": "\\frac{3}{4}",
        "θ": "\\theta ",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "，": ", ",
        "、": ", ",
        _OPEN: "",
        _CLOSE: "",
    }
)
_SUPERSCRIPTS = regex.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_UP = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")

_COMMANDS = regex.compile(
    r"\\(?:(?P<drop>left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![A-Za-z])"
    r"(?P<dot>\.)?|(?P<frac>[dtc])frac(?![A-Za-z])|(?P<ge>geqq|geqslant|geq)(?![A-Za-z])"
    r"|(?P<le>leqq|leqslant|leq)(?![A-Za-z])|(?P<brace>[lr]brace)(?![A-Za-z])"
    r"|(?P<bar>[lr]?[vV]ert|mid)(?![A-Za-z])|(?P<degree>degree|textdegree)(?![A-Za-z])"
    r"|(?P<empty>varnothing)(?![A-Za-z])|mathbb\s*\{?\s*(?P<set>[A-Z])\s*\}?|(?P<percent>%)|(?P<dollar>textdollar)(?![A-Za-z]))"
)
_STYLES = regex.compile(
    r"\\(?P<command>text(?:bf|it|rm|sf|tt|normal)?|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)"
    r"|operatorname\*?|boldsymbol|bm|boxed|fbox|framebox|emph)\s*\{(?P<inner>[^{}]*)\}"
)
_BOXES = ("boxed", "fbox", "framebox", "boldsymbol", "bm", "mathbf", "mathit")
_AND = regex.compile(
    rf"{_OPEN}\s*,?\s*(?:and|or)\s*{_CLOSE}|(?<=[\d)}}\]\s])\s*\b(?:and|or)\b(?=[\s(\\])"
)
_SPACES = regex.compile(
    r"(\\\\)(?:\[[^\]]*\])?|\\[,;:!>/ ]|\\q?quad(?![A-Za-z])|~|\\hspace\{[^}]*\}"
)
_DOLLARS = regex.compile(r"(\\\\)(?:\[[^\]]*\])?|(\\\$)|\$|\\[()\[\]]")
_ASCII = regex.compile(
    r"(?<![A-Za-z\\])(sqrt|pi|infinity|infty|oo|sin|cos|tan|cot|sec|csc|log|ln|exp|theta)(?![A-Za-z])"
)
_RENAMED = {"infinity": "infty", "oo": "infty"}
_OPERATORS = {"**": "^", "<=": "\\le ", ">=": "\\ge ", "==": "="}

_GROUPED = regex.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:(?:\{,\}|,\\!\s*|\\,)\d{3})+(?!\d)")
_DECIMAL_COMMA = regex.compile(r"(\d)\{,\}(?=\d)")
_RUN = regex.compile(r"(?<![\d.,\\])[\d,]*\d,[\d,]*\d(?![\d,])")
_THOUSANDS = regex.compile(r"[1-9]\d{0,2}(?:,\d{3})+")


def clean(answer: str) -> str:
    """The answer in one spelling, numbers whole; what separates two numbers is kept."""
    text = answer.strip().translate(_CHARACTERS)
    text = _SUPERSCRIPTS.sub(lambda found: "^{" + found[0].translate(_UP) + "}", text)
    if text.startswith("**") and text.endswith("**"):
        text = text.strip("*")
    for old, new in _OPERATORS.items():
        text = text.replace(old, new)
    text = _COMMANDS.sub(_command, text)
    text = _whole_numbers(_DOLLARS.sub(lambda found: found[1] or found[2] or "", text))
    text = _SPACES.sub(lambda found: found[1] or " ", text)
    for _ in range(4):  # \textbf{\text{B}}
        text = _STYLES.sub(_styled, text)
    text = _AND.sub(", ", text)
    text = _ASCII.sub(lambda found: f"\\{_RENAMED.get(found[1], found[1])} ", text)
    spelled: str = text.strip().rstrip(".,;: ")
    return spelled


def squeezed(text: str) -> str:
    """Without spaces, but for one between two words or numbers."""
    text = regex.sub(r"\s+", " ", text.strip())
    text = regex.sub(r"(?<![\p{L}\d.]) | (?![\p{L}\d.])", "", text)
    spelled: str = regex.sub(
        r"(?<=\\[A-Za-z]+) (?=\d)|(?<=(?<!\\)\b\p{L}) (?=\d)|(?<=\d) (?=\p{L})", "", text
    )
    return spelled


def unwrapped(text: str) -> str:
    """Without the marks of text."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def _command(found: regex.Match[str]) -> str:
    name = found.lastgroup if found.lastgroup != "dot" else "drop"
    return {
        "drop": "",
        "frac": "\\frac",
        "ge": "\\ge ",
        "le": "\\le ",
        "brace": "\\{" if found["brace"] == "lbrace" else "\\}",
        "bar": "|",
        "degree": "^\\circ ",
        "empty": "\\emptyset ",
        "set": f"\\mathbb{{{found['set']}}}",
        "percent": "%",
        "dollar": "\\$",
    }[name or "drop"]


def _styled(found: regex.Match[str]) -> str:
    inner = found["inner"]
    is_text = found["command"] not in _BOXES and len(inner.strip()) > 1
    return f"{_OPEN}{inner}{_CLOSE}" if is_text and regex.search(r"\p{L}", inner) else inner


def _whole_numbers(text: str) -> str:
    """Numbers with separators between their thousands as plain digits, decimal commas as points.

    In round or square brackets and sets a comma separates entries.
    """
    text = _GROUPED.sub(lambda found: regex.sub(r"\D", "", found[0]), text)
    text = _DECIMAL_COMMA.sub(r"\1.", text)

    def joined(found: regex.Match[str]) -> str:
        before = text[: found.start()]
        inside = sum(before.count(one) for one in "([") - sum(before.count(one) for one in ")]")
        inside += before.count("\\{") - before.count("\\}")
        whole = not inside and _THOUSANDS.fullmatch(found[0])
        run: str = found[0]
        return run.replace(",", "") if whole else run

    spelled: str = _RUN.sub(joined, text)
    return spelled
