"""The page against the real server, with the model in the box."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from selenium.webdriver.common.keys import Keys as Key

from gsr_engine import AsyncEngine
from gsr_engine.serving import create_app
from gsr_engine.serving.http.settings import Settings
from tests.helpers.browser import Open

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("layout", ["linear", "branched"])
def test_nano_solves_an_example_in_the_page(
    open_page: Open, nano: AsyncEngine, layout: str
) -> None:
    page = open_page(create_app(nano, settings=Settings(model_name="nano"))).connected()
    assert page.texts("#layout option") == ["linear", "branched"]
    page.find("#layout").send_keys(layout)
    page.find("#seed").send_keys("5")  # some seeds draw a candidate that states no answer
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
    settings = Settings(model_name="nano", max_tokens=100, max_k=2, default_k=2)
    page = open_page(create_app(nano, settings=settings)).connected()
    assert page.find("#tokens").get_property("value") == "100"
    assert page.find("#k").get_property("value") == "2"
    page.solve("1+" * 3000)
    page.wait(lambda: page.text("#error").startswith("The server refused this. "))
    assert "2048" in page.text("#error").replace(",", "")


def test_a_server_may_have_no_page(nano: AsyncEngine) -> None:
    app = create_app(nano, settings=Settings(page=False))
    assert TestClient(app).get("/").status_code == 404
