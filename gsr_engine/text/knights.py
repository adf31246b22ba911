"""Answers to Knights-and-Knaves puzzles: who is a knight, and who is a knave.

Any usual form says the same: sentences, a numbered list, "Ann: knight", "Knights: Ann, Bob", a
table. Names and roles are compared without case and order.
"""

from __future__ import annotations

import regex

Roles = frozenset[tuple[str, bool]]
"""Every inhabitant's name in lower case, and whether that is a knight."""

FORM = "State everyone's role in the final answer, for example: Ann is a knight, Bob is a knave."
"""What a problem has to say about the form, because its answer is compared as a whole."""

_LONGEST = 4000
_ROLE_NAMES = {"knight": True, "knights": True, "knave": False, "knaves": False}
_SAME_ROLE = {"truth-teller": True, "truth-tellers": True, "liar": False, "liars": False}
_FILLERS = (
    {"and", "answer", "are", "as", "both", "char", "character", "conclude", "conclusion", "final"}
    | {"finally", "following", "hence", "here", "identity", "inhabitant", "is", "it", "name", "of"}
    | {"only", "person", "result", "role", "roles", "so", "solution", "the", "their", "therefore"}
    | {"these", "they", "thus", "type", "we", "while", "who"}
)
_NOT = frozenset(("not", "isn't", "aren't"))
_REASONING = (
    {"assume", "because", "but", "claims", "could", "either", "every", "false", "how", "if"}
    | {"implies", "neither", "nor", "or", "said", "says", "since", "someone", "suppose", "that"}
    | {"then", "true", "was", "what", "when", "which", "would"}
)
"""Words of an argument, which is no answer."""
_MARKUP = regex.compile(
    r"\\(?:begin|end)\{[^}]*\}(?:\{[^}]*\})?|\\[A-Za-z]+|\\."
    r"|[{}$*`\"“”_|&]|\(?\b\d+\b[.):]*"
)
_WORD = regex.compile(r"[\p{L}\p{M}]+(?:['’-][\p{L}\p{M}]+)*")
_MENTIONS = regex.compile(r"\bkn(?:ight|ave)s?\b", regex.IGNORECASE)
_LINES = regex.compile(r"\n+|(?<=[.!?])\s+")


def parse_roles(text: str) -> Roles | None:
    """What an answer states; None if it is no such answer, contradicts itself or is unclear."""
    if not mentions_roles(text) or len(text) > _LONGEST:
        return None
    words = _without_articles(_WORD.findall(_MARKUP.sub(" ", text).replace("’", "'")))
    if not _REASONING.isdisjoint(words):
        return None
    words = [word for word in words if word not in _FILLERS]
    headed = bool(words) and words[0] in _ROLE_NAMES
    pairs = _by_heading(words) if headed else _by_name(words)
    roles = frozenset(pairs or ())
    return roles if roles and len(roles) == len(dict(roles)) else None


def _without_articles(words: list[str]) -> list[str]:
    """In lower case, without "a" before a role; an A elsewhere, or a capital one, is a name."""
    shouted = all(word.isupper() for word in words)
    lower = [word.casefold() for word in words]
    nexts = [*lower[1:], ""]
    return [
        low
        for word, low, following in zip(words, lower, nexts, strict=True)
        if low != "a"
        or not (following in _ROLE_NAMES or following in _SAME_ROLE)
        or (word == "A" and not shouted)
    ]


def _by_heading(words: list[str]) -> list[tuple[str, bool]] | None:
    """A role stands before its names: "Knights: Ann, Bob. Knaves: Cid"."""
    pairs, role = [], False
    for word in words:
        if word in _NOT or word in _SAME_ROLE:
            return None
        if word in _ROLE_NAMES:
            role = _ROLE_NAMES[word]
        else:
            pairs.append((word, role))
    return pairs


def _by_name(words: list[str]) -> list[tuple[str, bool]] | None:
    """A role stands behind its names: "Ann and Bob are knights, Cid: knave"."""
    pairs: list[tuple[str, bool]] = []
    names: list[str] = []
    negated = False
    for word in words:
        role = _ROLE_NAMES.get(word, _SAME_ROLE.get(word))
        if word in _NOT:
            negated = not negated
        elif role is None:
            names.append(word)
        elif names:
            pairs += [(name, role != negated) for name in names]
            names, negated = [], False
        elif negated or not pairs or word not in _SAME_ROLE or role != pairs[-1][1]:
            return None  # but "a knave (liar)" says it twice
    return None if names or negated else pairs


def mentions_roles(text: str) -> bool:
    """Whether knights or knaves are spoken of."""
    return _MENTIONS.search(text) is not None


def stated_roles(text: str) -> str | None:
    """The last lines or sentences of a solution that state roles and nothing else."""
    found: list[str] = []
    for piece in reversed(_LINES.split(text)):
        if not regex.search(r"\p{L}", piece):  # a blank line, or the number in a list
            continue
        if parse_roles(piece) is not None:
            found.insert(0, piece.strip())
        elif found:
            break
    return "\n".join(found) or None
