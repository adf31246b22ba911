"""The page at `/`, in headless Chromium: a person with a keyboard solves a problem."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from gsr_engine import AsyncEngine
from gsr_engine.demo.puzzles import Puzzle, readable, stream_of
from gsr_engine.demo.report import NANO
from gsr_engine.serving import create_app
from gsr_engine.serving.http.auth import Keys
from gsr_engine.serving.http.settings import Settings
from tests.helpers import scripted_chat as scripted
from tests.helpers.scripted_chat import BEGIN, END, KEEP_ALIVE, ScriptedChat, serving

pytestmark = pytest.mark.slow

PATIENCE = 60
"""Seconds after which what did not happen counts as a failure; nothing waits so long otherwise."""


class Page:
    """What a person sees of the page, and does."""

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver = driver
        driver.get(address)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Of the elements that match: a row of a table is one line."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [" ".join(one.text.split()) for one in found]

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: condition())

    def connected(self) -> Page:
        self.wait(lambda: self.text("#model"))
        return self

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def control(self, key: str) -> None:
        """Presses a key while Ctrl is down."""
        chord = ActionChains(self.driver).key_down(Key.CONTROL).send_keys(key)
        chord.key_up(Key.CONTROL).perform()

    def solve(self, problem: str = "1 + 1", k: int = 2) -> None:
        """By keyboard: a problem, k, Ctrl+Enter."""
        self.find("#k").send_keys(Key.CONTROL, "a")
        self.press(str(k))
        self.find("#problem").send_keys(problem)
        self.control(Key.ENTER)

    def focused(self) -> str | None:
        return self.driver.switch_to.active_element.get_attribute("id")

    def script(self, code: str) -> Any:
        return self.driver.execute_script(code)


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    """One browser for all tests of this file."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


Open = Callable[..., Page]


@pytest.fixture
def open_page(chromium: webdriver.Chrome) -> Iterator[Open]:
    """Serves an application and opens its page in a tab of its own, at 1280 x 900."""
    with ExitStack() as stack:

        def open_page(app: Any, path: str = "/", width: int = 1280) -> Page:
            address = stack.enter_context(serving(app))
            first = chromium.current_window_handle
            chromium.switch_to.new_window("tab")
            stack.callback(chromium.switch_to.window, first)
            stack.callback(chromium.close)
            chromium.get_log("browser")  # what earlier pages said
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
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


def held(chat: ScriptedChat, after: int) -> threading.Event:
    """Holds the stream after so many parts, until the event is set."""
    gate = threading.Event()
    chat.script.insert(after, gate)
    return gate


def test_a_person_sees_all_of_a_run(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.texts("#candidates h3") == ["Candidate 1", "Candidate 2"]
    assert page.texts("#candidates .written") == ["one and one", "I see 2"]
    assert page.texts("#candidates .state") == ["cut at the limit", "done"]
    assert page.texts("#candidates .answer dd") == ["11", "2"]
    assert page.texts("#candidates .tokens dd") == ["9", "9"]
    assert page.texts("#candidates .logprob dd") == ["−1.500", "−0.250"]
    assert (page.text("#refined .thinking"), page.text("#refined .written")) == ("hm", "It is 2.")
    assert page.text("#refined .answer dd") == "2"
    assert page.texts("#agreement tbody tr") == ["11 1 of 2", "2 1 of 2"]
    assert page.text("#verdict") == "The refinement takes one of the answers that tie."
    costs = [row.split()[-3:] for row in page.texts("#costs tbody tr, #costs tfoot tr")]
    assert costs == [
        ["1,061", "3,183", "0.04"],
        ["396", "0", "2.31"],
        ["438", "61", "0.18"],
        ["97", "0", "0.97"],
        ["1,992", "3,244", "3.50"],
    ]
    assert page.driver.get_log("browser") == []


def test_candidates_stream_side_by_side(open_page: Open, chat: ScriptedChat) -> None:
    gate = held(chat, 6)
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.texts("#candidates .state") == ["writing", "done"])
    assert page.texts("#candidates .written") == ["one and one", "I see 2"]
    assert page.texts("#candidates .tokens dd") == ["–", "9"]
    assert page.text("#status") == "1 of 2 candidates finished."
    left, right = (one.rect for one in page.driver.find_elements(By.CSS_SELECTOR, "#candidates li"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    gate.set()
    page.wait(lambda: page.text("#status").startswith("Done"))


def test_it_says_that_the_model_reads_the_candidates(open_page: Open, chat: ScriptedChat) -> None:
    gate = held(chat, 8)
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#refined .state") == "reading the candidates")
    assert page.texts("#candidates .state") == ["cut at the limit", "done"]
    gate.set()
    page.wait(lambda: page.text("#refined .state") == "done")


def test_a_narrow_screen_stacks_them(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app(), width=390).connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    upper, lower = (
        one.rect for one in page.driver.find_elements(By.CSS_SELECTOR, "#candidates li")
    )
    assert upper["x"] == lower["x"]
    assert upper["y"] + upper["height"] < lower["y"]
    root = "document.documentElement"
    assert page.script(f"return {root}.scrollWidth === {root}.clientWidth")


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


def verdict_of(open_page: Open, answers: list[tuple[str | None, int | None]]) -> tuple[Any, ...]:
    """What the page says of the answers of candidates, and of the refinement, which is the last."""
    *candidates, refined = answers
    done = [scripted.candidate_done(index, *one) for index, one in enumerate(candidates)]
    script = [BEGIN, *done, scripted.refinement_done(*refined), scripted.costs(), END]
    page = open_page(ScriptedChat(script=script).app()).connected()
    page.solve(k=len(candidates))
    page.wait(lambda: page.text("#status").startswith("Done"))
    return page.text("#verdict"), page.texts("#agreement tbody tr")


@pytest.mark.parametrize(
    ("answers", "verdict", "table"),
    [
        (
            [("1/2", 0), ("3", 1), ("0.5", 0), ("0.50", 0)],
            "The refinement agrees with the majority.",
            ["1/2 2 of 3", "3 1 of 3"],
        ),
        (
            [("3", 0), ("3", 0), ("4", 2), ("4", 2)],
            "The refinement agrees with a minority.",
            ["3 2 of 3", "4 1 of 3"],
        ),
        (
            [("3", 0), ("3", 0), ("4", None)],
            "The refined answer is new: no candidate states it.",
            ["3 2 of 2", "4 new"],
        ),
        (
            [("3", 0), ("3", 0), ("3", 0)],
            "The refinement and all candidates agree.",
            ["3 2 of 2"],
        ),
        ([("3", 0), ("3", 0)], "The refinement keeps the answer.", ["3 1 of 1"]),
        ([(None, None), (None, None), (None, None)], "The refinement states no answer.", []),
    ],
)
def test_agreement(
    open_page: Open,
    answers: list[tuple[str | None, int | None]],
    verdict: str,
    table: list[str],
) -> None:
    assert verdict_of(open_page, answers) == (verdict, table)


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


def test_text_of_a_model_never_becomes_markup(open_page: Open) -> None:
    text = "<img src=x onerror='document.title=1'><script>document.title=2</script> & \\(x^2\\)"
    script = [
        BEGIN,
        scripted.candidate(0, text),
        scripted.candidate_done(0, text, 0),
        scripted.chunk({"content": text}),
        scripted.refinement_done(text, 0),
        END,
    ]
    chat = ScriptedChat(script=script)
    chat.name = text
    page = open_page(chat.app()).connected()
    page.solve(k=1)
    page.wait(lambda: page.text("#status").startswith("Done"))
    for place in ("#model", "#candidates .written", "#candidates .answer dd", "#agreement th"):
        assert page.text(place if place != "#agreement th" else "#agreement tbody th") == text
    assert page.text("#refined .written") == text
    assert page.script("return document.images.length") == 0
    assert page.driver.title.endswith("selfRef")


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (
            (400, "max_tokens: at most 648"),
            "The server refused this. max_tokens: at most 648",
        ),
        (
            (503, "the queue is full", {"Retry-After": "7"}),
            "The server takes no request now; try again in 7 s. the queue is full",
        ),
        ((500, "a bug"), "The server failed. a bug"),
    ],
)
def test_a_refusal_is_shown_in_words(
    open_page: Open, chat: ScriptedChat, refused: tuple[Any, ...], words: str
) -> None:
    chat.refusal = scripted.refusal(*refused)
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#error") == words)
    assert page.find("#error").aria_role == "alert"
    assert not page.find("#results").is_displayed()
    chat.refusal = None  # and the next try is like the first
    page.control(Key.ENTER)
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.text("#error") == ""


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (
            ['data: {"error": {"message": "the logits are not finite"}}\n\n'],
            "The server gave up. the logits are not finite",
        ),
        ([], "The stream ended before the answer was complete."),
    ],
)
def test_a_stream_that_breaks_is_shown_in_words(
    open_page: Open, chat: ScriptedChat, last: list[str], words: str
) -> None:
    chat.script[6:] = last
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#error") == words)
    assert page.texts("#candidates .state") == ["not finished", "done"]
    assert page.texts("#candidates .written") == ["one and one", "I see 2"]


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


def test_it_asks_nothing_of_any_other_server(open_page: Open, chat: ScriptedChat) -> None:
    page = open_page(chat.app()).connected()
    page.solve()
    page.wait(lambda: page.text("#status").startswith("Done"))
    fetched = page.script("return performance.getEntriesByType('resource').map(one => one.name)")
    here = page.script("return location.href")
    assert sorted(fetched) == [here + "v1/chat/completions", here + "v1/models"]


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


@pytest.fixture(scope="module")
def nano() -> Iterator[AsyncEngine]:
    """The model in the box."""
    engine = AsyncEngine.from_pretrained(NANO, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_nano_solves_an_example_in_the_page(
    open_page: Open, nano: AsyncEngine, layout: str
) -> None:
    page = open_page(create_app(nano, settings=Settings(model_name="nano"))).connected()
    assert page.texts("#layout option") == ["linear", "branched"]
    page.find("#layout").send_keys(layout)
    page.find("#examples button").click()
    page.control(Key.ENTER)
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.texts(".state") == ["done"] * 5
    answers = page.texts("#candidates .answer dd")
    for answer, text in zip(answers, page.texts("#candidates .written"), strict=True):
        assert text.endswith(f"={answer}")
    refined = page.text("#refined .answer dd")
    assert page.text("#refined .written").endswith(f"={refined}")
    rows = [row.split() for row in page.texts("#agreement tbody tr")]
    stated = {answer: int(count) for answer, count, *_ in rows if count != "new"}
    assert stated == {answer: answers.count(answer) for answer in answers}
    assert refined in [answer for answer, *_ in rows]
    assert all(-20 < float(one.replace("−", "-")) < 0 for one in page.texts(".logprob dd"))
    assert len(page.texts("#costs tbody tr")) == 4
    written = sum(int(tokens) for tokens in page.texts(".tokens dd"))
    assert page.text("#costs-note").startswith(f"{written} tokens written.")
    assert page.driver.get_log("browser") == []


def test_a_real_server_with_a_key_inside_another_application(
    open_page: Open, nano: AsyncEngine
) -> None:
    host = FastAPI()
    host.mount("/llm", create_app(nano, auth="right-key", settings=Settings(model_name="nano")))
    page = open_page(host, "/llm")
    page.wait(lambda: page.find("#key-dialog").is_displayed())
    page.press("right-key", Key.ENTER)
    page.connected().find("#tokens").send_keys(Key.CONTROL, "a")
    page.press("3")
    page.find("#examples button").click()
    page.control(Key.ENTER)
    page.wait(lambda: page.text("#status").startswith("Done"))
    assert page.texts("#candidates .state") == ["cut at the limit"] * 4
    assert page.texts("#candidates .answer dd") == ["none stated"] * 4
    assert page.text("#verdict") == "The refinement states no answer."


def test_a_real_server_refuses_in_words(open_page: Open, nano: AsyncEngine) -> None:
    settings = Settings(model_name="nano", max_tokens=100)
    page = open_page(create_app(nano, settings=settings)).connected()
    assert page.find("#tokens").get_property("value") == "100"
    page.solve("1+" * 3000)
    page.wait(lambda: page.text("#error").startswith("The server refused this. "))
    assert "2048" in page.text("#error").replace(",", "")


def test_a_server_may_have_no_page(nano: AsyncEngine) -> None:
    app = create_app(nano, settings=Settings(page=False))
    assert TestClient(app).get("/").status_code == 404
