"""Fixtures: one tiny checkpoint per family, made once per session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches for the network, nor waits for its time-out
if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are taken already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers.checkpoints import make_checkpoint

if TYPE_CHECKING:
    from selenium import webdriver

# No test is timed, and a busy machine is no failure.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class _Checkpoints(dict[str, Path]):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, family: str) -> Path:
        self[family] = make_checkpoint(self._root / family, family)
        return self[family]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family name to checkpoint folder; one is made when it is first asked for."""
    return _Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def qwen2(checkpoints: dict[str, Path]) -> Path:
    """The checkpoint that most tests use."""
    return checkpoints["qwen2"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for all tests of a file."""
    from tests.helpers.browser import headless_chromium

    browser = headless_chromium()
    yield browser
    browser.quit()
