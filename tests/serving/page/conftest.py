"""Headless Chromium, and the chat that its pages are opened with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from selenium import webdriver

from tests.helpers import scripted_chat as scripted
from tests.helpers.browser import Open, Page, set_width
from tests.helpers.live_server import live
from tests.helpers.scripted_chat import BEGIN, END, KEEP_ALIVE, ScriptedChat


@pytest.fixture
def open_page(chromium: webdriver.Chrome) -> Iterator[Open]:
    """Serves an application and opens its page in a tab of its own, at 1280 x 900."""
    with ExitStack() as stack:

        def open_page(app: Any, path: str = "/", width: int = 1280) -> Page:
            address = stack.enter_context(live(app))
            first = chromium.current_window_handle
            chromium.switch_to.new_window("tab")
            stack.callback(chromium.switch_to.window, first)
            stack.callback(chromium.close)
            chromium.get_log("browser")  # what earlier pages said
            set_width(chromium, width)
            return Page(chromium, address + path)

        yield open_page


@pytest.fixture
def chat() -> ScriptedChat:
    """Two candidates that disagree, and a refinement that agrees with the second."""
    return ScriptedChat(
        script=[
            BEGIN,
            scripted.candidate(0, "one and "),
            KEEP_ALIVE,
            scripted.candidate(1, "I see 2"),
            scripted.candidate(0, "one"),
            scripted.candidate_done(1, "2", 1),
            scripted.candidate_done(0, "11", 0, finish_reason="length", mean_logprob=-1.5),
            scripted.refinement_begins(),
            scripted.chunk({"reasoning": "hm", "reasoning_content": "hm"}),
            scripted.chunk({"content": "It is "}),
            scripted.chunk({"content": "2."}),
            scripted.refinement_done("2", 1),
            scripted.costs(),
            END,
        ]
    )
