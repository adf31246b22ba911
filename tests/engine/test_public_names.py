"""What `from gsr_engine import ...` gives."""

from __future__ import annotations

import pytest

import gsr_engine


def test_every_public_name_is_there() -> None:
    for name in gsr_engine.__all__:
        assert getattr(gsr_engine, name).__module__.startswith(("gsr_engine.", "typing"))
        assert name in dir(gsr_engine)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Enigne'"):
        gsr_engine.Enigne  # noqa: B018
