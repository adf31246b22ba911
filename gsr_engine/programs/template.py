"""The texts around a problem and its candidates, and the built-in ones, which are data."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

from gsr_engine.errors import InvalidRequest, shown

MOST_TEMPLATE = 100_000
"""Characters of one text of a template; more would leave no room for a problem."""
NUMBER = "{n}"
"""What stands for a candidate's number, from 1, in the text before it."""
_ALONE = ("opening", "preamble", "separator", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The texts around a problem and its candidates, and what the chat template reads besides.

    direct   = chat([user: problem + direct])
    linear   = chat([user: opening + problem + preamble + (separator + candidate) * k + linear
                     + again])
    branched = chat([user: problem + direct, assistant: candidate (k in parallel),
                     user: branched + again])

    where again = restate + problem, or nothing if restate is None. If the problem is a
    conversation, its last message takes the place of the user's, and those before it come first.

    Attributes:
        separator: stands before each candidate; `{n}` in it is the candidate's number, from 1.
        branched: None if there is no such text; then the layout is refused.
        alone: texts that take the place of opening, preamble, separator or linear in a linear
            prompt of a single candidate.
        answer_form: whether the prompts say in what form a final answer is written. Otherwise no
            answer is looked for: `answer` is None, and what compares answers is refused.
        chat_template_kwargs: variables of the chat template, e.g. `{"enable_thinking": false}`.
        date: the date that the chat template reads, as YYYY-MM-DD; None leaves it to the run.
    """

    direct: str
    preamble: str
    separator: str
    linear: str
    opening: str = ""
    restate: str | None = None
    branched: str | None = None
    alone: Mapping[str, str] = field(default_factory=dict)
    answer_form: bool = True
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None

    def __hash__(self) -> int:
        return hash(self.hash)  # a dict has none

    def branched_text(self) -> str:
        """The text of the branched layout. Raises InvalidRequest if there is none."""
        if self.branched is None:
            raise InvalidRequest("layout", f"the template {self.name} has no text for 'branched'")
        return self.branched

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the texts and of what is set besides."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """Its name if it is a built-in one, whatever the chat template reads besides."""
        plain = replace(self, chat_template_kwargs={}, date=None)
        return next((repr(name) for name, one in TEMPLATES.items() if one == plain), "of its own")

    @property
    def numbered(self) -> bool:
        """Whether the text before a candidate depends on the candidate's number."""
        return NUMBER in self.separator

    def before(self, number: int) -> str:
        """The text before a candidate; numbers begin at 1."""
        return self.separator.replace(NUMBER, str(number))

    def shows(self, k: int) -> Template:
        """The texts of a linear prompt of k candidates."""
        texts: dict[str, Any] = dict(self.alone)
        return replace(self, **texts) if k == 1 else self

    def as_dict(self) -> dict[str, Any]:
        """As in `gsr.json`: what was added to the format later is there only if it is set."""
        later = ("opening", "alone", "answer_form", "chat_template_kwargs", "date")
        unset = {one.name: one for one in fields(self) if one.name in later}
        values = asdict(self)
        for name, one in unset.items():
            default = {} if one.default is MISSING else one.default
            if values[name] == default:
                del values[name]
        return values


def template_of(value: object) -> Template:
    """A built-in template by its name, or one of a file's own.

    Raises:
        ValueError: there is no such template, or one of its texts is missing or no text.
    """
    if isinstance(value, str) and value in TEMPLATES:
        return TEMPLATES[value]
    if not isinstance(value, dict):
        raise ValueError(f"template must be {' or '.join(TEMPLATES)}, or texts, got {shown(value)}")
    besides = {"chat_template_kwargs", "date"}
    if not set(value) - besides:  # only what the chat template reads besides
        value = {**TEMPLATES["gsr"].as_dict(), **value}
    return _checked(value)


def _checked(value: dict[str, Any]) -> Template:
    every = [one.name for one in fields(Template)]
    needed = [one.name for one in fields(Template) if one.default is MISSING is one.default_factory]
    if not set(needed) <= set(value) <= set(every):
        optional = [name for name in every if name not in needed]
        raise ValueError(
            f"template must have {', '.join(needed)} and may have {', '.join(optional)}, "
            f"got {shown(sorted(value))}"
        )
    for name in (*needed, "opening", "restate", "branched"):
        text = value.get(name, "")
        if text is None and name in ("restate", "branched"):
            continue
        _check_text(f"template.{name}", text)
    _check_alone(value.get("alone", {}))
    form = value.get("answer_form", True)
    if not isinstance(form, bool):
        raise ValueError(f"template.answer_form must be true or false, got {shown(form)}")
    _check_variables(value.get("chat_template_kwargs", {}), value.get("date"))
    return Template(**value)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or len(text) > MOST_TEMPLATE:
        raise ValueError(
            f"{name} must be a text of at most {MOST_TEMPLATE} characters, got {shown(text)}"
        )


def _check_alone(texts: object) -> None:
    if not isinstance(texts, dict) or not set(texts) <= set(_ALONE):
        raise ValueError(f"template.alone must be some of {', '.join(_ALONE)}, got {shown(texts)}")
    for name, text in texts.items():
        _check_text(f"template.alone.{name}", text)


def _check_variables(variables: object, day: object) -> None:
    if not isinstance(variables, dict):
        raise ValueError(f"template.chat_template_kwargs must be a dict, got {shown(variables)}")
    if day is None:
        return
    try:
        date.fromisoformat(day)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"template.date must be a date, YYYY-MM-DD, got {shown(day)}") from None


@cache
def program_files() -> dict[str, dict[str, Any]]:
    """The data of the built-in programs, by name."""
    folder = resources.files("gsr_engine.programs")
    files = sorted(
        (file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda f: f.name
    )
    return {
        file.name.removesuffix(".toml"): tomllib.loads(file.read_text("utf-8")) for file in files
    }


def _built_in() -> dict[str, Template]:
    own = {name: _checked(data["template"]) for name, data in program_files().items()}
    restated = replace(own["gsr"], restate="\n\nThe problem once more:\n\n")
    return dict(sorted({**own, "restated": restated}.items()))


TEMPLATES = _built_in()
"""Built-in templates: those of the programs, and GSR's with the problem restated at the end."""
