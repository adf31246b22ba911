"""Flags fill a dataclass, and its own checks say what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from gsr_engine.errors import InvalidRequest
from train.build import HybridOptions, RefineOptions
from train.generate import GenerateOptions
from train.hybrid.candidate_sets import size_range, uniform_weights
from train.options import check_least, one_word, parse_options, parse_subcommand, part_of

_NAMES = one_word("NAME,...", lambda text: tuple(text.split(",")), ",".join)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part.

    Attributes:
        size: of the part.
    """

    size: int = 4
    limit: int | None = None

    def __post_init__(self) -> None:
        check_least(self, size=1, limit=2)


@dataclass(frozen=True, kw_only=True)
class Options(Part):
    """All options."""

    out: Path
    names: Annotated[tuple[str, ...], _NAMES] = ("a", "b")
    fast: bool = True


def parse(*flags: str) -> Options:
    return parse_options("some.command", Options, "What it does.", ["--out", "x", *flags])


def test_flags_and_defaults() -> None:
    assert parse() == Options(out=Path("x"))
    changed = parse("--size=5", "--limit", "3", "--no-fast", "--names", "c,d,e")
    assert changed == Options(out=Path("x"), size=5, limit=3, fast=False, names=("c", "d", "e"))
    assert type(changed) is Options


@pytest.mark.parametrize(("flag", "field"), [("--size=0", "size"), ("--limit=1", "limit")])
def test_a_failed_check_names_its_field(flag: str, field: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field}: must be at least"):
        parse(flag)


@pytest.mark.parametrize("flags", [("--size", "many"), ("--sizes", "3"), ("stray",)])
def test_wrong_flags_end_the_command(
    flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*flags)
    assert ended.value.code == 2
    assert "python -m some.command --help" in " ".join(capsys.readouterr().err.split())


def test_a_part_has_the_options_of_its_names() -> None:
    options = Options(out=Path("x"), size=7)
    assert part_of(Part, options) == Part(size=7)
    assert part_of(Part, options, size=1) == Part(size=1)


def test_the_first_argument_chooses_the_dataclass() -> None:
    kinds = {"part": Part, "all": Options}
    assert parse_subcommand("some.command", kinds, "", ["part", "--size=2"]) == Part(size=2)
    chosen = parse_subcommand("some.command", kinds, "", ["all", "--out=x"])
    assert chosen == Options(out=Path("x"))
    assert type(chosen) is Options


def test_the_flags_of_the_data_stages() -> None:
    job = ["direct", "--data=d", "--model=m", "--out=o", "--base-url=http://h/v1", "--n=3"]
    options = parse_options("train.generate", GenerateOptions, "", job)
    assert (options.task, options.base_url, options.n, options.workers) == (
        "direct", "http://h/v1", 3, 1,
    )  # fmt: skip
    for flag in ("--n=0", "--workers=0", "--seed=-1", "--lease-seconds=0.5", "--concurrency=0"):
        field = flag[2:].partition("=")[0].replace("-", "_")
        with pytest.raises(InvalidRequest, match=f"^{field}: must be at least"):
            parse_options("train.generate", GenerateOptions, "", [*job, flag])
    kinds = {"refine": RefineOptions, "hybrid": HybridOptions}
    sets = ["refine", "--problems=p", "--candidates=c", "--model=m", "--out=o", "--k=2-3"]
    assert parse_subcommand("train.build", kinds, "", sets).weights == (0, 1, 1)
    rows = ["hybrid", "--problems=p", "--model=m", "--out=o", "--refine=r", "--layouts=linear"]
    chosen = parse_subcommand("train.build", kinds, "", [*rows, "--decontaminate=a.jsonl,b.jsonl"])
    assert chosen.layouts == ("linear",)
    assert chosen.evaluation == (Path("a.jsonl"), Path("b.jsonl"))


@pytest.mark.parametrize("sizes", ["4-6", "1-1", "3-8"])
def test_sizes_are_shown_as_they_are_written(sizes: str) -> None:
    assert size_range(uniform_weights(sizes)) == sizes
