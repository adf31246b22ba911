"""What a person does with the page, with the keyboard alone; and what the page may do."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key

from gsr_engine.demo.puzzles import Puzzle, readable, stream_of
from gsr_engine.serving.http.auth import Keys
from tests.helpers.browser import PATIENCE, Open
from tests.helpers.scripted_chat import ScriptedChat, held

pytestmark = pytest.mark.slow


def test_the_keyboard_reaches_everything_in_order(open_page: Open, chat: ScriptedChat) -> None:
    gate = held(chat, 6)
    page = open_page(chat.app()).connected()
    reached = [page.focused()]
    while reached[-1] != "solve":
        page.press(Key.TAB)
        reached.append(page.focused())
    assert reached == ["problem", "k", "tokens", "seed", "solve"]
    page.press(Key.TAB, Key.ENTER)  # the first example
    assert page.focused() == "problem"
    page.press(*[Key.TAB] * 4, Key.ENTER)
    page.wait(lambda: page.texts("#candidates .state")[:2] == ["writing", "done"])
    assert page.focused() == "stop"
    gate.set()
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.focused() == "solve"
    assert chat.requests[0]["gsr"]["k"] == 4


def test_every_control_has_a_name(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app(Keys("secret")))
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    assert page.find("#key").accessible_name == "API key"
    page.press("secret", Key.ENTER)
    page.connected().solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    controls = page.driver.find_elements(
        By.CSS_SELECTOR, "input, select, textarea, button, [tabindex], section, table, dialog"
    )
    shown = [one for one in controls if one.is_displayed()]
    assert len(shown) > 12
    assert [one.tag_name for one in shown if not one.accessible_name] == []


def test_the_request_says_what_was_chosen(open_page: Open, chat: ScriptedChat) -> None:
    chat.layouts = ("linear", "branched")
    page = open_page(chat.app()).connected()
    page.find("#tokens").clear()
    page.find("#tokens").send_keys("77")
    page.find("#layout").send_keys("branched")
    page.find("#seed").send_keys("5")
    page.solve("What is\n1 + 1?")
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert chat.requests == [
        {
            "model": "acme/large",
            "messages": [{"role": "user", "content": "What is\n1 + 1?"}],
            "max_tokens": 77,
            "seed": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
            "gsr": {"k": 2, "stream": "all", "layout": "branched"},
        }
    ]


def test_a_run_without_a_seed_says_which_one_it_used(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app()).connected()
    assert not page.find("#layout").is_displayed()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert f"seed {chat.requests[0]['seed']}." in page.text("#status")
    assert "layout" not in chat.requests[0]["gsr"]


def test_a_model_that_was_not_trained_to_refine_is_asked_for_answers_in_a_form(
    open_page: Open, chat: ScriptedChat
) -> None:
    chat.answer_form = False
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert chat.requests[0]["gsr"]["template"] == "gsr"


def test_stop_closes_the_connection(open_page: Open, chat: ScriptedChat) -> None:
    held(chat, 6)
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.texts("#candidates .state") == ["writing", "done"])
    page.find("#stop").click()
    assert chat.left.wait(PATIENCE)
    page.wait(lambda: page.text("#status") == "Stopped.")
    assert page.texts("#candidates .state") == ["stopped", "done"]
    assert page.text("#refined .state") == "stopped"
    assert page.text("#error") == ""
    assert page.find("#solve").is_displayed()


def test_a_key_is_asked_for_and_forgotten_with_the_tab(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app(Keys("right-key")))
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    assert page.text("#key-note") == ""
    page.press("wrong-key", Key.ENTER)
    page.wait(lambda: page.text("#key-note") == "The server does not know this key.")
    page.press("right-key", Key.ENTER)
    page.connected().solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.script("return Object.values(sessionStorage)") == ["right-key"]
    assert page.script("return [localStorage.length, document.cookie]") == [0, ""]


def test_it_works_wherever_it_is_mounted(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app(prefix="/llm"), "/llm/").connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))


def test_the_examples_of_nano_are_puzzles_that_it_was_not_trained_on(
    open_page: Open, chat: ScriptedChat
) -> None:
    chat.name = "nano"
    page = open_page(chat.app()).connected()
    buttons = page.driver.find_elements(By.CSS_SELECTOR, "#examples button")
    assert len(buttons) >= 3
    for button in buttons:
        button.click()
        problem = page.find("#problem").get_property("value")
        digits = tuple(int(digit) for digit in re.findall(r"[a-j](\d)", problem))
        terms = re.findall(r"×[₁₂₃](?:(\d)|\((\d)\+(\d)\))", problem)
        sums = tuple((int(left), int(right)) for _, left, right in terms if left)
        factors = tuple(
            int(one or int(left) + int(right)) for one, left, right in terms if one or left
        )
        puzzle = Puzzle(digits, factors, sums or None)
        assert puzzle.problem == problem
        assert stream_of(puzzle) == "test"
        assert button.text == f"{readable(problem)} in base 5"


def test_it_asks_nothing_of_any_other_server(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    fetched = page.script("return performance.getEntriesByType('resource').map(one => one.name)")
    here = page.script("return location.href")
    assert sorted(fetched) == [here + "v1/chat/completions", here + "v1/models"]


def test_the_page_may_do_nothing_but_ask_its_own_server(chat: ScriptedChat) -> None:
    client = TestClient(chat.app(Keys("secret")))
    without = client.get("/")
    page = client.get("/", headers={"Authorization": "Bearer secret"})
    assert (without.status_code, page.status_code) == (401, 200)
    assert without.text == page.text
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    parts = page.headers["content-security-policy"].split("; ")
    policy = dict(part.split(" ", 1) for part in parts)
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert re.fullmatch(r"('sha256-[\w+/=]+' ?)+", policy["script-src"])
    assert not re.search(r"(?:src|href)=\"(?!data:)", page.text)
