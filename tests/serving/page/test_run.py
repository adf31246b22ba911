"""What the page shows of a run, in headless Chromium against a scripted server."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key

from tests.helpers import scripted_chat as scripted
from tests.helpers.browser import Open
from tests.helpers.scripted_chat import BEGIN, END, ScriptedChat, held

pytestmark = pytest.mark.slow


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
    places = ("#model", "#candidates .written", "#candidates .answer dd", "#agreement tbody th")
    for place in (*places, "#refined .written"):
        assert page.text(place) == text
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
