"""A program: a template with the widths and the sampling that its authors recommend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from gsr_engine.errors import InvalidRequest, shown
from gsr_engine.params import SamplingParams, SelfRefineParams
from gsr_engine.programs.template import program_files

ParamsT = TypeVar("ParamsT", SamplingParams, SelfRefineParams)


@dataclass(frozen=True, slots=True)
class Program:
    """A published way to refine, as its file describes it.

    Attributes:
        name: of the file, and of the template.
        about: one line.
        source: where it was published, and what of its prompt is theirs.
        reports: what its authors report, and with how many tokens or candidates.
        values: fields of `SelfRefineParams`; `candidate` and `refine` are fields of
            `SamplingParams`.
        rounds_of_k: so many rounds of k refinements come before the last one.
    """

    name: str
    about: str
    source: str
    reports: tuple[str, ...]
    values: Mapping[str, Any]
    rounds_of_k: int = 0

    def completed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Fields as in `values`, and those that are missing there from the program.

        Fields inside `candidate` and `refine` are taken one by one if they are given as mappings.
        """
        whole = {"template": self.name, **self.values, **values}
        for name in ("candidate", "refine"):
            given, own = values.get(name, {}), self.values.get(name, {})
            whole[name] = {**own, **given} if isinstance(given, Mapping) else given
        if self.rounds_of_k and "widths" not in values:
            whole["widths"] = (whole["k"],) * self.rounds_of_k
        return whole


def _of_file(name: str, data: Mapping[str, Any]) -> Program:
    """A program from its file, which is a part of the package."""
    return Program(
        name,
        data["about"],
        data["source"],
        tuple(data["reports"]),
        data["params"],
        data.get("rounds_of_k", 0),
    )


PROGRAMS = {name: _of_file(name, data) for name, data in program_files().items()}
"""The built-in programs, by name."""


def find_program(name: object) -> Program:
    """A built-in program. Raises InvalidRequest if there is none of this name."""
    if isinstance(name, str) and name in PROGRAMS:
        return PROGRAMS[name]
    raise InvalidRequest("program", f"must be one of {', '.join(PROGRAMS)}, got {shown(name)}")


def program(name: str, **changes: Any) -> SelfRefineParams:
    """The parameters of a built-in program: `program("rsa", k=8)`.

    Args:
        name: one of `PROGRAMS`: agglm, gsr, pacore, plain, rsa.
        changes: fields of `SelfRefineParams` that take the place of the program's. Rounds that are
            as wide as k follow a changed k. `candidate` and `refine` may be mappings of fields of
            `SamplingParams`, which leave the other fields to the program.

    Raises:
        InvalidRequest: there is no such program, or a field is unknown or out of range.
    """
    values = find_program(name).completed(changes)
    for one in ("candidate", "refine"):
        if isinstance(values[one], Mapping):
            greedy = {"temperature": 0.0} if one == "refine" else {}
            values[one] = _made(SamplingParams, {**greedy, **values[one]}, f"{one}.")
    return _made(SelfRefineParams, values)


def _made(kind: type[ParamsT], values: Mapping[str, Any], place: str = "") -> ParamsT:
    known = {one.name for one in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise InvalidRequest(f"{place}{unknown[0]}", f"is no field of {kind.__name__}")
    try:
        return kind(**values)
    except InvalidRequest as error:
        if not place:
            raise
        raise InvalidRequest(f"{place}{error.field}", str(error).partition(": ")[2]) from None
