"""Every command of the checkout can be asked what it does."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from train.command import log

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "train", "tests/engine")
    for file in (ROOT / folder).rglob("*.py")
    if 'if __name__ == "__main__":\n' in (text := file.read_text(encoding="utf-8"))
    and any(runs in text for runs in ("typer.run(main)", "run_command("))
)


@pytest.fixture(autouse=True)
def _logger_as_before() -> Iterator[None]:
    handlers, level, propagate = log.handlers, log.level, log.propagate
    yield
    log.handlers, log.level, log.propagate = handlers, level, propagate


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert ended.value.code == 0
    options = [one for one in vars(module).values() if is_dataclass(one)]
    described = [one.__doc__ for one in (module, module.main, *options)]
    summaries = [text.splitlines()[0] for text in described if text]
    shown = " ".join(capsys.readouterr().out.split())
    assert any(summary in shown for summary in summaries)


def test_the_commands_are_found() -> None:
    assert {"train.generate", "train.build", "train.sft", "train.nano"} <= set(COMMANDS)
