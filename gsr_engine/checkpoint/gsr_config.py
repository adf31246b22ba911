"""The refinement that a checkpoint was trained for: `gsr.json` beside its `config.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError
from gsr_engine.params import LAYOUTS, Layout

RefinePosition = Literal["after", "fork"]
CandidateKV = Literal["as_generated", "reread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The texts around a problem and its candidates; each is tokenised separately.

    direct   = chat([user: problem + direct])
    linear   = chat([user: problem + preamble + (separator + candidate) * k + linear + again])
    branched = chat([user: problem + direct, assistant: candidate (k in parallel),
                     user: branched + again])

    where again = restate + problem, or nothing if restate is None.
    """

    direct: str
    preamble: str
    separator: str
    linear: str
    restate: str | None
    branched: str

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the texts."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


_BOXED = "Give the final answer in \\boxed{}."
_GSR = Template(
    direct=f"\n\nSolve the problem step by step. {_BOXED}",
    preamble="\n\nBelow are candidate solutions to this problem. Any of them, all or none may be "
    "right or complete.",
    separator="\n\n[Candidate solution]\n",
    linear="\n\nCompare the candidates with the problem and with one another, find the flaws in "
    f"them, and then solve the problem yourself. {_BOXED}",
    restate=None,
    branched="The solutions above are candidates: any of them, all or none may be right or "
    "complete. Compare them with the problem and with one another, find the flaws in them, and "
    f"then solve the problem yourself. {_BOXED}",
)
TEMPLATES = {
    "gsr": _GSR,
    "restated": Template(**{**asdict(_GSR), "restate": "\n\nThe problem once more:\n\n"}),
}
"""Built-in templates: as GSR describes its prompt, and with the problem restated at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GsrConfig:
    r"""The refinement that a checkpoint was trained for.

    Attributes:
        layouts: the layouts it can refine in.
        template: its prompts.
        num_candidates: least and most candidates that it was trained with, None if unknown.
        refine_position: where a branched refinement's positions begin. "after": behind the
            largest position that any candidate reached. "fork": its first generated token takes
            the position of the candidates' first token, the glue the positions before that.
        candidate_kv: how a branched refinement reads a candidate whose summary is only a part of
            it (it thought, or its summary was cut). "as_generated": it attends to the summary's KV
            as it was generated. "reread": the summary is prefilled again right behind the problem.
        thinking: the tags around thinking, None if the checkpoint does not think.
        answer_pattern: a regular expression with one group, the final answer; the last match
            counts. None means the last balanced \boxed{}.
        trained: whether the checkpoint has a `gsr.json`; it is not part of the file.
    """

    layouts: tuple[Layout, ...] = ("linear",)
    template: Template = _GSR
    num_candidates: tuple[int, int] | None = None
    refine_position: RefinePosition = "after"
    candidate_kv: CandidateKV = "reread"
    thinking: tuple[str, str] | None = ("<think>", "</think>")
    answer_pattern: str | None = None
    trained: bool = field(default=True, compare=False)

    @classmethod
    def from_folder(cls, folder: Path) -> GsrConfig:
        """Read `gsr.json`; without the file, the defaults with `trained` False.

        Raises:
            CheckpointError: the file is unreadable, or a field is unknown or has a bad value.
        """
        path = folder / "gsr.json"
        if not path.exists():
            return cls(trained=False)
        try:
            return cls._from_dict(read_json(path))
        except (KeyError, TypeError, ValueError, regex.error) as error:
            raise CheckpointError(f"{path}: {error}") from None

    @classmethod
    def _from_dict(cls, raw: dict[str, Any]) -> GsrConfig:
        known = {field.name for field in fields(cls)} - {"trained"} | {"template_hash"}
        if unknown := raw.keys() - known:
            raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
        values = dict(raw)
        stated_hash = values.pop("template_hash", None)
        template = values.get("template", "gsr")
        values["template"] = (
            TEMPLATES[template] if isinstance(template, str) else Template(**template)
        )
        for name in ("layouts", "num_candidates", "thinking"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        config = cls(**values)
        config._check(stated_hash)
        return config

    def _check(self, stated_hash: str | None) -> None:
        if unknown := set(self.layouts) - set(LAYOUTS):
            raise ValueError(f"unknown layouts {unknown}")
        if self.refine_position not in get_args(RefinePosition):
            raise ValueError(f"unknown refine_position {self.refine_position!r}")
        if self.candidate_kv not in get_args(CandidateKV):
            raise ValueError(f"unknown candidate_kv {self.candidate_kv!r}")
        if self.thinking is not None and not (
            len(self.thinking) == 2 and all(isinstance(tag, str) and tag for tag in self.thinking)
        ):
            raise ValueError(f"thinking must be two tags, got {self.thinking!r}")
        for name, text in asdict(self.template).items():
            if not (isinstance(text, str) or (name == "restate" and text is None)):
                raise ValueError(f"template.{name} must be text, got {text!r}")
        if self.answer_pattern is not None and regex.compile(self.answer_pattern).groups != 1:
            raise ValueError("answer_pattern must have exactly one group")
        if stated_hash not in (None, self.template.hash):
            raise ValueError(f"template_hash is {stated_hash}, its texts have {self.template.hash}")

    def save(self, folder: Path) -> None:
        """Write `gsr.json`."""
        values = asdict(self)
        del values["trained"]
        values["template_hash"] = self.template.hash
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (folder / "gsr.json").write_text(text + "\n", encoding="utf-8")
