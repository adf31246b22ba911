"""Every command of the checkout can be asked what it does."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for floor in ("benchmarks", "train", "tests/engine")
    for file in (ROOT / floor).rglob("*.py")
    if "typer.run(main)" in file.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    command = import_module(name).main
    app = typer.Typer()
    app.command()(command)
    asked = CliRunner().invoke(app, ["--help"])
    assert asked.exit_code == 0
    assert command.__doc__.splitlines()[0] in " ".join(asked.output.split())
