"""What a person sees of the page at `/`, and does, in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 60
"""Seconds after which what did not happen counts as a failure; nothing waits so long otherwise."""


def headless_chromium() -> webdriver.Chrome:
    """A browser, which its caller ends; without one the test is skipped."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


def set_width(driver: webdriver.Chrome, width: int) -> None:
    """The size of the page in pixels; its height is 900."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


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
        """Until a condition holds; an element that the page replaces meanwhile is read again."""
        replaced = [StaleElementReferenceException]
        waiting = WebDriverWait(self.driver, PATIENCE, 0.02, ignored_exceptions=replaced)
        waiting.until(lambda _: condition())

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


Open = Callable[..., Page]
"""Serves an application and opens its page, at a path and with a width in pixels."""
