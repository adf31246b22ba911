"""What a person sees of the report's page, and does, in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys as Key

from benchmarks.report import rows
from benchmarks.report.rows import OUTCOMES
from benchmarks.samples.folder import Run
from benchmarks.samples.sample import Sample, Solution
from gsr_engine.outputs import CUT
from gsr_engine.text.answers import majority
from tests.benchmarks.report.made import METHODS, random_run, write_page
from tests.helpers.browser import Page, set_width
from tests.helpers.runs import LINEAR, run_of, sample

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("report-page")]

HOSTILE = (
    "</script><script>document.title = 'owned'</script>",
    "<!--<script> a comment that begins",
    "<img src=http://example.com/x onerror=\"document.title = 'owned'\">",
    "$\\frac{1}{2}$ & &amp; &lt; \\u003c ` ${document.title = 'owned'} \u2028 \u202e end",
    "ünïcödé 🧮 \ud83e half a pair, \x00\x01\x1b[31m control, \r\n two\tlines",
    "  spaces  stay  ",
)

Open = Callable[..., Page]


@pytest.fixture
def open_page(chromium: webdriver.Chrome) -> Iterator[Open]:
    """Opens a page; at the end it has complained of nothing, and asked nobody for anything."""
    chromium.get_log("browser")

    def open_page(path: Path, address: str = "", width: int = 1280) -> Page:
        set_width(chromium, width)
        chromium.get("about:blank")  # else a new fragment opens no page
        return Page(chromium, f"{path.as_uri()}{address}")

    yield open_page
    assert chromium.get_log("browser") == []
    fetched = "return performance.getEntriesByType('resource').map((one) => one.name)"
    assert chromium.execute_script(fetched) == []


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run of random answers, and its page."""
    run = random_run()
    return run, write_page(tmp_path_factory.mktemp("random"), run)


def ids(page: Page) -> list[str]:
    return page.script("return browser.found.map((one) => browser.run.samples[one].id)")


def shown(page: Page) -> str:
    return page.text("#sample > h3")


def choose(page: Page, field: str, value: str) -> None:
    """As a person does, and waits until the list is that of the choice."""
    page.script(
        f"at({field!r}).value = {value!r}; at({field!r}).dispatchEvent(new Event('change'))"
    )
    page.wait(lambda: page.script(f"return at({field!r}).value") == value)
    page.wait(lambda: quote(value).replace("%20", "+") in page.driver.current_url)


def test_texts_are_shown_as_they_are(open_page: Open, tmp_path: Path) -> None:
    samples = []
    for number, text in enumerate(HOSTILE):
        made = sample(
            f"p{number}{text[:9]}", ["7"] * 4, {LINEAR.name: "7"}, problem=text, gold=text
        )
        for one in (*made.candidates, *made.answers):
            one.text = one.answer = text
        samples.append(made)
    run = run_of(samples, (LINEAR,))
    run.settings["model"] = run.settings["task"] = HOSTILE[0]
    run.facts["left_out"] = [[HOSTILE[0], HOSTILE[2]]]
    page = open_page(write_page(tmp_path, run), "#view=problems")
    for number, text in enumerate(HOSTILE):
        page.wait(lambda number=number: shown(page).startswith(f"p{number}"))
        selector = "#sample .text, #sample .answer dd"
        texts = f"[...document.querySelectorAll({selector!r})].map((one) => one.textContent)"
        read = json.loads(page.script(f"return JSON.stringify({texts})"))
        assert len(read) == 11  # the problem, four candidates and the refinement
        assert set(read) == {text}
        page.press("j")
    assert page.script("return document.title") != "owned"
    scripts = "return [...document.scripts].filter((one) => !one.type).length"
    assert page.script(scripts) == 4


def reference(one: Sample, name: str, outcome: str) -> bool:
    """Whether a sample has an outcome, by its solutions alone."""
    k = {method.name: method.k for method in METHODS}[name] if name != "greedy" else 4
    own, first = one.answer_of(name), one.candidates[:k]
    vote = majority([each.answer for each in first], [each.correct for each in first])
    voted = vote is not None and first[vote].correct
    every: list[Solution] = [*one.candidates, *one.answers]
    return {
        "every problem": True,
        "majority wrong → right": own.correct and not voted,
        "majority right → wrong": voted and not own.correct,
        "all candidates wrong → right": own.correct and not any(each.correct for each in first),
        "right": own.correct,
        "wrong": own.answer is not None and not own.correct,
        "nobody right": not any(each.correct for each in every),
        "no answer": own.answer is None,
        "cut": own.finish_reason in CUT,
    }[outcome]


def test_filters_find_what_they_name(open_page: Open, random: tuple[Run, Path]) -> None:
    run, path = random
    page = open_page(path, "#view=problems")
    found = 0
    for method in METHODS:
        choose(page, "method", method.name)
        for outcome in OUTCOMES:
            choose(page, "outcome", outcome)
            expected = [one.id for one in run.samples if reference(one, method.name, outcome)]
            page.wait(lambda expected=expected: ids(page) == expected)
            found += 0 < len(expected) < len(run.samples)
    assert found > 15
    choose(page, "outcome", "every problem")
    choose(page, "size", "2")
    page.wait(lambda: ids(page) == [one.id for one in run.samples if one.size == "2"])
    assert page.text("#count") == "10 of 30 problems"


def test_a_count_of_flips_leads_to_these_problems(
    open_page: Open, random: tuple[Run, Path]
) -> None:
    run, path = random
    page = open_page(path)
    for outcome in OUTCOMES[1:4]:
        query = quote(outcome).replace("%20", "+")
        selector = f"td a[href*='{query}'][href*='linear']"
        (link,) = page.driver.find_elements("css selector", selector)
        expected = [one.id for one in run.samples if reference(one, LINEAR.name, outcome)]
        assert link.text == f"{len(expected)}"
        page.script(f'document.querySelector("{selector}").click()')
        page.wait(lambda: page.find("#problems").is_displayed())
        page.wait(lambda expected=expected: ids(page) == expected)
        assert page.find("#outcome").get_property("value") == outcome
        page.driver.back()
        page.wait(lambda: page.find("#figures").is_displayed())


def test_the_keyboard_moves_and_searches(open_page: Open, random: tuple[Run, Path]) -> None:
    run, path = random
    run.samples[17].problem = "the needle"
    page = open_page(write_page(path.parent.parent / "needle", run), "#view=problems")
    assert shown(page) == "p0"
    steps = (("j", "p1"), (Key.ARROW_RIGHT, "p2"), ("k", "p1"), (Key.ARROW_LEFT, "p0"))
    for key, expected in steps:
        page.press(key)
        page.wait(lambda expected=expected: shown(page) == expected)
    first = page.find("#method").get_property("value")
    page.press("m")
    page.wait(lambda: page.find("#method").get_property("value") != first)
    page.press("/")
    page.wait(lambda: page.focused() == "search")
    page.press("NEEDLE")
    page.wait(lambda: ids(page) == ["p17"])
    page.press("jk")  # typed, and no command
    page.wait(lambda: ids(page) == [])
    assert "Choose another" in page.text("#sample")
    page.press(Key.ESCAPE)
    page.wait(lambda: page.focused() != "search")


def test_an_address_leads_to_a_problem(open_page: Open, random: tuple[Run, Path]) -> None:
    _, path = random
    page = open_page(path, "#problem=p11")
    assert shown(page) == "p11"
    page.press("j")
    page.wait(lambda: shown(page) == "p12")
    again = page.driver.current_url
    page = open_page(path, again[again.index("#") :])
    assert shown(page) == "p12"
    assert shown(open_page(path, "#problem=unknown&method=unknown&outcome=unknown")) == "p0"


def test_a_problem_shows_what_was_read_in_which_order(
    open_page: Open, random: tuple[Run, Path]
) -> None:
    _, path = random
    page = open_page(path, f"#problem=p3&method={quote(METHODS[2].name)}")
    titles = page.texts("#sample .card h3")
    assert titles[:2] == ["1st · candidate 2", "2nd · candidate 1"]
    assert titles[-1] == METHODS[2].name
    assert page.text(".sides > section > details > summary").endswith("(4)")
    page.find(".card details summary").click()
    page.wait(lambda: page.find(".card .bars").is_displayed())


def test_repeats_of_a_problem_are_samples_of_their_own(open_page: Open, tmp_path: Path) -> None:
    page = open_page(write_page(tmp_path, random_run(4, repeats=3)), "#problem=p2&at=1")
    assert shown(page) == "p2 · repeat 2"
    assert page.text("#count") == "12 of 12 samples"
    choose(page, "repeat", "2")
    page.wait(lambda: page.text("#count") == "4 of 12 samples")
    assert "Spread over 3 repeats" in page.script("return at('figures').textContent")


def test_another_method_is_shown_of_the_same_repeat(open_page: Open, tmp_path: Path) -> None:
    run = random_run(4, repeats=3)
    chosen = f"&view=problems&method={quote(LINEAR.name)}&outcome=right"
    page = open_page(write_page(tmp_path, run), f"#{chosen[1:]}")
    place = next(
        index for index, one in enumerate(run.samples)
        if one.repeat and one.answer_of(LINEAR.name).correct
    )  # fmt: skip
    page.script(f"browser.here = browser.found.indexOf({place}); browser.drawSample()")
    before = shown(page)
    assert "repeat 1" not in before
    page.press("m")
    page.wait(lambda: page.find("#method").get_property("value") != LINEAR.name)
    assert shown(page) == before


def test_several_runs_share_a_page(open_page: Open, tmp_path: Path) -> None:
    one, other = random_run(5), random_run(7, seed=1)
    other.settings["model"] = "acme/large"
    page = open_page(write_page(tmp_path, one, other))
    assert len(page.texts("#overview tbody tr")) == 2
    assert page.text("#lead").startswith("made by hand on 5")
    page.find("#run").send_keys("large")
    page.wait(lambda: page.text("#lead").startswith("large on 7"))
    page.find("nav a:last-child").click()
    page.wait(lambda: page.text("#count") == "7 of 7 problems")


def test_a_plot_changes_its_axis_and_says_what_a_point_is(
    open_page: Open, random: tuple[Run, Path]
) -> None:
    page = open_page(random[1])
    label = "return document.querySelector('.plot .label').textContent"
    before = page.script(label)
    page.find(".choice button:last-child").click()
    assert page.script(label) != before
    page.script(
        """const frame = document.querySelector(".plot .frame");
        const dot = frame.querySelector(".refined .dot").getBoundingClientRect();
        const at = { clientX: dot.x + dot.width / 2, clientY: dot.y + dot.height / 2 };
        frame.dispatchEvent(new PointerEvent("pointermove", at));"""
    )
    assert page.text("#tip").startswith("selfref")
    lines = "return document.querySelectorAll('.plot .series.refined .dot').length"
    assert page.script(lines) > 0


@pytest.mark.parametrize("address", ["", "#view=problems"])
def test_a_phone_shows_it_without_moving_sideways(
    open_page: Open, random: tuple[Run, Path], address: str
) -> None:
    page = open_page(random[1], address, width=360)
    width = page.script("return document.documentElement.scrollWidth")
    assert width <= 360


def test_a_long_run_shortens_its_texts_and_says_so(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "MOST_TEXT", 5_000)
    run = random_run(20)
    run.samples[5].answers[1].text = "begin " + "x" * 5000 + " end"
    page = open_page(write_page(tmp_path, run), f"#problem=p5&method={quote(LINEAR.name)}")
    assert "shortened" in page.text("#shortened")
    text = page.script("return document.querySelector('.sides > :last-child .text').textContent")
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert "characters are left out here" in text
    assert len(text) < 4000
