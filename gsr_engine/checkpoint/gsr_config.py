"""The refinement that a checkpoint was trained for: `gsr.json` beside its `config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from gsr_engine.checkpoint.files import beside, read_json
from gsr_engine.errors import CheckpointError, InvalidRequest, shown
from gsr_engine.params import LAYOUTS, MAX_CANDIDATES, Layout
from gsr_engine.programs.template import TEMPLATES, Template, template_of

RefinePosition = Literal["after", "fork"]
CandidateKV = Literal["as_generated", "reread"]

MOST_TAG = 100
MOST_PATTERN = 1000


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
        thinking: the tags around thinking, None if the checkpoint does not think. "auto" asks the
            tokenizer and the chat template.
        answer_pattern: a regular expression with one group, the final answer; the last match
            counts. None means the last balanced \boxed{}.
        trained: whether it was trained to refine. The file says so by being there, unless it holds
            `"trained": false`, as that of a checkpoint trained on direct rows alone does.
        names_template: whether the file, or whoever loaded it, named the template.
    """

    layouts: tuple[Layout, ...] = ("linear",)
    template: Template = TEMPLATES["gsr"]
    num_candidates: tuple[int, int] | None = None
    refine_position: RefinePosition = "after"
    candidate_kv: CandidateKV = "reread"
    thinking: tuple[str, str] | Literal["auto"] | None = "auto"
    answer_pattern: str | None = None
    trained: bool = field(default=True, compare=False)
    names_template: bool = field(default=False, compare=False)

    @classmethod
    def from_folder(cls, folder: Path) -> GsrConfig:
        """Read `gsr.json` (`X.gsr.json` of `X.gguf`); without it, defaults with `trained` False.

        Raises:
            CheckpointError: the file is unreadable, or a field is unknown or has a bad value.
        """
        path = beside(folder, "gsr.json")
        return cls.from_file(path) if path.exists() else cls(trained=False)

    @classmethod
    def from_file(cls, path: Path) -> GsrConfig:
        """Read a file in the format of `gsr.json`. Raises CheckpointError as `from_folder`."""
        try:
            return cls._from_dict(read_json(path))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: {error!s:.300}") from None

    def with_prompts_of(self, template: str | Path) -> GsrConfig:
        """The same with other prompts; what the checkpoint was trained for stays its own.

        Args:
            template: the name of a built-in template, or a file in the format of `gsr.json`, of
                which `template`, `thinking` and `answer_pattern` are taken if it has them.

        Raises:
            InvalidRequest: it is neither, or has none of these.
            CheckpointError: the file is unreadable, or a field is unknown or has a bad value.
        """
        if isinstance(template, str) and template in TEMPLATES:
            return self.with_template(template)
        if not isinstance(template, str | Path) or not Path(template).is_file():
            raise InvalidRequest(
                "template", f"must be {', '.join(TEMPLATES)} or a file, got {shown(template)}"
            )
        theirs = GsrConfig.from_file(Path(template))
        taken = {"template", "thinking", "answer_pattern"} & read_json(Path(template)).keys()
        if not taken:
            raise InvalidRequest("template", f"{template} has no template")
        named = self.names_template or theirs.names_template
        values = {name: getattr(theirs, name) for name in taken}
        return replace(self, **values, names_template=named)

    def with_template(self, name: str) -> GsrConfig:
        """The same with the texts of a built-in template.

        What the chat template reads besides (its variables, the date) stays the checkpoint's own.

        Raises:
            InvalidRequest: there is no such template.
        """
        if name not in TEMPLATES:
            raise InvalidRequest(
                "template", f"must be one of {', '.join(TEMPLATES)}, got {shown(name)}"
            )
        own = self.template
        template = replace(
            TEMPLATES[name], chat_template_kwargs=own.chat_template_kwargs, date=own.date
        )
        return replace(self, template=template, names_template=True)

    @classmethod
    def _from_dict(cls, raw: dict[str, Any]) -> GsrConfig:
        known = {field.name for field in fields(cls)} - {"names_template"} | {"template_hash"}
        if unknown := raw.keys() - known:
            raise ValueError(f"unknown fields {shown(sorted(unknown))}")
        values = dict(raw)
        stated_hash = values.pop("template_hash", None)
        values["names_template"] = "template" in values
        values["template"] = template_of(values.get("template", "gsr"))
        for name in ("layouts", "num_candidates", "thinking"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        config = cls(**values)
        config._check()
        if stated_hash not in (None, config.template.hash):
            raise ValueError(
                f"template_hash is {shown(stated_hash)}, its texts have {config.template.hash}"
            )
        return config

    def _check(self) -> None:
        if not (_is_tuple_of(str, self.layouts) and 0 < len(set(self.layouts)) <= len(LAYOUTS)):
            raise ValueError(f"layouts must be some of {LAYOUTS}, got {shown(self.layouts)}")
        if unknown := set(self.layouts) - set(LAYOUTS):
            raise ValueError(f"unknown layouts {shown(sorted(unknown))}")
        if "branched" in self.layouts and self.template.branched is None:
            raise ValueError("layouts has branched, but template.branched is missing")
        if self.refine_position not in get_args(RefinePosition):
            raise ValueError(f"unknown refine_position {shown(self.refine_position)}")
        if self.candidate_kv not in get_args(CandidateKV):
            raise ValueError(f"unknown candidate_kv {shown(self.candidate_kv)}")
        self._check_candidates()
        if not isinstance(self.trained, bool):
            raise ValueError(f"trained must be true or false, got {shown(self.trained)}")
        thinking = self.thinking
        if thinking not in (None, "auto") and not (
            _is_tuple_of(str, thinking) and len(thinking) == 2 and all(map(_is_tag, thinking))
        ):
            raise ValueError(
                f"thinking must be auto or two tags of at most {MOST_TAG} characters, "
                f"got {shown(thinking)}"
            )
        if self.answer_pattern is not None:
            _check_pattern(self.answer_pattern)

    def _check_candidates(self) -> None:
        least_most = self.num_candidates
        if least_most is not None and not (
            _is_tuple_of(int, least_most)
            and len(least_most) == 2
            and 1 <= least_most[0] <= least_most[1] <= MAX_CANDIDATES
        ):
            raise ValueError(
                f"num_candidates must be the least and the most, from 1 to {MAX_CANDIDATES}, "
                f"got {shown(least_most)}"
            )

    def save(self, folder: Path) -> None:
        """Write `gsr.json`."""
        values = {**asdict(self), "template": self.template.as_dict()}
        if self.trained:
            del values["trained"]
        del values["names_template"]
        values["template_hash"] = self.template.hash
        text = json.dumps(values, indent=2, ensure_ascii=False)
        (folder / "gsr.json").write_text(text + "\n", encoding="utf-8")


def _is_tuple_of(kind: type, value: object) -> bool:
    return isinstance(value, tuple) and all(type(one) is kind for one in value)


def _is_tag(text: str) -> bool:
    return 0 < len(text) <= MOST_TAG


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str) or len(pattern) > MOST_PATTERN:
        raise ValueError(
            f"answer_pattern must be a text of at most {MOST_PATTERN} characters, "
            f"got {shown(pattern)}"
        )
    try:
        groups = regex.compile(pattern).groups
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"answer_pattern is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"answer_pattern must have exactly one group, it has {groups}")
