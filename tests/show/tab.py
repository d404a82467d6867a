"""The page of `flair-jax demo-app` in a browser, as a user handles it."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from shown import decoded, tags

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1300,1000"
)
WAIT = 120  # seconds, for a machine that is busy with other tests


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator:
    """Chromium and its driver, from the system's packages."""
    from selenium import webdriver

    program, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "install chromium"
    assert chromedriver, "install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


class Tab:
    def __init__(self, driver) -> None:
        self.driver = driver
        self.until(lambda: self.one("#upload input[type=file]"))

    def run(self, script: str, *arguments):
        """What a script returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str):
        found = self.all(selector)
        return found[0] if found else None

    def until(self, what: Callable):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT).until(lambda _: what())

    def upload(self, path: Path) -> None:
        self.until(lambda: self.one("#upload input[type=file]")).send_keys(str(path))

    def write(self, text: str, into: str = "#sentences textarea") -> None:
        from selenium.webdriver.common.keys import Keys

        self.one(into).send_keys(Keys.CONTROL + "a")
        self.one(into).send_keys(text)

    def html(self, selector: str = "#result") -> str:
        return self.one(selector).get_attribute("innerHTML")

    def maps(self, sentences: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
        """Both maps of these sentences, once all are shown; their pixels are read from what the browser has."""

        def shown() -> dict[str, dict[str, np.ndarray]]:
            found: dict[str, dict[str, np.ndarray]] = {}
            for each in tags(self.html(), "img", "map"):
                sentence = each["alt"].partition(" for the sentence: ")[2]
                found.setdefault(sentence, {})[each["data-kind"]] = decoded(each["src"])
            return found

        return self.until(lambda: (found := shown()) and set(sentences) <= set(found) and found)
