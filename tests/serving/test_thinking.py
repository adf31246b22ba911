"""Thinking is told apart from the answer while the text comes, however it is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsr_engine.serving.http.thinking import ThinkingSplitter

TAGS = ("<think>", "</think>")


def split(pieces: list[str], tags: Any = TAGS, begun: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter(tags, begun)
    parts = [splitter.push(piece) for piece in pieces]
    parts.append(splitter.push("", last=True))
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


@pytest.mark.parametrize(
    ("text", "begun", "expected"),
    [
        ("<think>a</think>b", False, ("a", "b")),
        ("\n <think>a</think>\n\nb", False, ("a", "\n\nb")),
        ("a</think>b", True, ("a", "b")),
        ("a<think>b</think>c", False, ("", "a<think>b</think>c")),
        ("<think>never ends", False, ("never ends", "")),
        ("<think>a</think>b</think>c", False, ("a", "b</think>c")),
        ("<thin", False, ("", "<thin")),
        ("", False, ("", "")),
        ("  ", False, ("", "  ")),
        ("<think>a</thi", False, ("a</thi", "")),
        ("</think>", True, ("", "")),
    ],
)
def test_a_text_is_split_wherever_it_is_cut(
    text: str, begun: bool, expected: tuple[str, str]
) -> None:
    assert split([text], begun=begun) == expected
    assert split(list(text), begun=begun) == expected


@given(st.lists(st.text("<>/think a", max_size=9)), st.booleans())
def test_how_a_text_is_cut_does_not_matter(pieces: list[str], begun: bool) -> None:
    whole = "".join(pieces)
    assert split(pieces, begun=begun) == split([whole], begun=begun)
    assert split(pieces, None) == ("", whole)
