"""Options of commands: a dataclass has their names, defaults, help and checks; tyro reads flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, TypeVar, Union

import tyro

from gsr_engine.errors import InvalidRequest

OptionsT = TypeVar("OptionsT")


def parse_options(
    command: str, kind: type[OptionsT], description: str, arguments: Sequence[str] | None = None
) -> OptionsT:
    """The options of a command from its flags.

    Args:
        command: its module, e.g. "train.generate".
        kind: a dataclass.
        description: what the command does, for its help.
        arguments: None takes those of the process.

    Raises:
        InvalidRequest: a check of the dataclass failed.
        SystemExit: flags are missing, unknown or of another type; status 2.
    """
    options = tyro.cli(
        _unchecked(kind), prog=f"python -m {command}", args=arguments, description=description
    )
    return part_of(kind, options)


def parse_subcommand(
    command: str,
    kinds: Mapping[str, type[Any]],
    description: str,
    arguments: Sequence[str] | None = None,
) -> Any:
    """As `parse_options`; the first argument is a name of `kinds` and chooses the dataclass."""
    unchecked = {name: _unchecked(kind) for name, kind in kinds.items()}
    any_kind: Any = Union[  # noqa: UP007  # of as many as there are
        tuple(
            Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)]
            for name, kind in unchecked.items()
        )
    ]
    options = tyro.cli(
        any_kind, prog=f"python -m {command}", args=arguments, description=description
    )
    chosen = next(name for name, kind in unchecked.items() if type(options) is kind)
    return part_of(kinds[chosen], options)


def _unchecked(kind: type[Any]) -> type[Any]:
    """The same dataclass without its checks, whose errors tyro would word as its own."""
    own = {"__post_init__": lambda _: None, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), own)


def one_word(
    metavar: str, read: Callable[[str], Any], write: Callable[[Any], str]
) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """An option of several values that is one word of the command line, e.g. "linear,branched"."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [write(value)],
    )


def part_of(kind: type[OptionsT], options: Any, **others: Any) -> OptionsT:
    """A dataclass from the options of the same names, and `others`."""
    names = [one.name for one in fields(kind) if one.name not in others]  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names}, **others)


def check_least(options: Any, **limits: float) -> None:
    """Raise InvalidRequest for an option below its limit; None has no limit."""
    for name, least in limits.items():
        value = getattr(options, name)
        if value is not None and not value >= least:
            raise InvalidRequest(name, f"must be at least {least}, got {value}")
