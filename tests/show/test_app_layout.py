"""How the page of `flair-jax demo-app` looks and answers to pointing, tapping and typing, in a real browser."""

import json
import threading
from collections.abc import Iterator

import pytest
from tab import Tab

from flair_jax.errors import ImageError

pytestmark = pytest.mark.browser

EXAMPLE = ["a red bar", "a cyan star", "an orange triangle"]
LONG = ["x" * 300, "one", "a sentence of many words, " * 12, "<img src=x onerror=alert(1)> {{y}} ${z}"]
# Luminance and contrast are those of WCAG 2.2; the background is that of the nearest ancestor which has one. Text of
# Gradio's disabled or hidden parts is left out.
CONTRASTS = """
const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const over = (top, below) => top.slice(0, 3).map((c, i) => c * (top[3] ?? 1) + below[i] * (1 - (top[3] ?? 1)));
function behind(element) {
  if (!element) return [255, 255, 255];
  const own = rgb(getComputedStyle(element).backgroundColor);
  return own[3] === undefined ? own : over(own, behind(element.parentElement));
}
const found = {};
for (const element of document.querySelectorAll(".flair *, #examples td, footer .settings, label span")) {
  const text = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
  if (!text || !element.offsetParent) continue;
  const below = behind(element);
  const [a, b] = [light(over(rgb(getComputedStyle(element).color), below)), light(below)].sort((x, y) => y - x);
  found[`${element.className} ${text}`.slice(0, 60)] = (a + 0.05) / (b + 0.05);
}
return found;
"""

# What is wider than the box that it is in.
CUT = """
return [...document.querySelectorAll(".flair, .flair *, #examples *")]
  .filter((each) => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== "inline")
  .map((each) => each.outerHTML.slice(0, 80));
"""


def screen(driver, width: int, *, dark: bool = False, touch: bool = False) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": touch}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})


@pytest.fixture
def wide(driver):
    yield screen(driver, 1280)
    screen(driver, 1280)


@pytest.fixture
def answered(wide, driver, url) -> Iterator[Tab]:
    """The page after a click on its first example."""
    driver.get("about:blank")
    driver.get_log("browser")  # of pages before
    driver.get(url)
    page = Tab(driver)
    page.until(lambda: page.one("#examples td")).click()
    page.maps(EXAMPLE)
    yield page
    assert [each for each in driver.get_log("browser") if each["source"] == "javascript"] == []


def point_at(page: Tab, element) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page.driver).scroll_to_element(element).move_to_element(element).perform()


def drawn(page: Tab, card: int = 0) -> list[str]:
    """Addresses of a card's maps."""
    return page.run(
        "return [...document.querySelectorAll('.sentence')[arguments[0]].querySelectorAll('.map')].map(m => m.src)",
        card,
    )


def maps_of(page: Tab, word) -> list[str]:
    text = page.all(".text")[int(word.get_attribute("data-text"))]
    return [text.get_attribute(f"data-{kind}") for kind in ("attention", "patches")]


def test_an_example_fills_the_form_and_is_answered(answered) -> None:
    assert answered.one("#sentences textarea").get_attribute("value").splitlines() == EXAMPLE
    assert answered.run("return document.querySelector('#upload img').naturalWidth") == 72
    assert answered.run("return [...document.querySelectorAll('#examples img')].map(i => i.naturalWidth)") == [72] * 3
    assert [each.text for each in answered.all(".words")] == EXAMPLE
    # Again, after other sentences for the same picture.
    answered.write("a cat")
    answered.one("#compare").click()
    answered.maps(["a cat"])
    answered.one("#examples td").click()
    answered.maps(EXAMPLE)
    answered.one("#upload button[aria-label='Remove Image']").click()
    answered.until(lambda: "Choose a picture or an example" in answered.one("#result").text)
    # Another one, and the first again, although its picture has been shown before.
    for row, sentence in ((2, "a blue moon"), (0, EXAMPLE[0])):
        answered.all("#examples tbody tr")[row].click()
        answered.until(lambda sentence=sentence: sentence in [each.text for each in answered.all(".words")])


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_everything_is_within_the_screen(answered, width: int) -> None:
    for sentences in (EXAMPLE, LONG):
        if sentences is LONG:
            answered.write("\n".join(LONG))
            answered.one("#compare").click()
            answered.maps([LONG[1]])
        screen(answered.driver, width, touch=width < 500)
        assert answered.run("return [innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [width, True]
        assert answered.run(CUT) == []
        boxes = answered.run(
            "return [...document.querySelectorAll('.map')].map(m => m.getBoundingClientRect().toJSON())"
        )
        assert len(boxes) == 2 * len(sentences)
        for box in boxes:
            assert box["left"] >= 0
            assert box["right"] <= width
            assert box["width"] >= 140
            assert abs(box["width"] - box["height"]) < 1
        screen(answered.driver, 1280)
    assert answered.all(".words")[3].text == LONG[3], "no markup"


def test_pointing_at_a_word_shows_its_maps_without_asking_the_server(answered) -> None:
    star, other = drawn(answered, 1), drawn(answered, 0)
    answered.driver.get_log("performance")
    word = answered.all(".word")[4]
    assert word.text == "cyan"
    point_at(answered, word)
    answered.until(lambda: drawn(answered, 1) != star)
    assert drawn(answered, 1) == maps_of(answered, word)
    assert drawn(answered, 0) == other, "the maps of other sentences stay"
    assert answered.all(".whose")[1].text.startswith("Maps of “cyan” alone: text-conditioned -1.04")
    assert answered.all(".map")[2].get_attribute("alt") == "attention, mean of the heads for the word: cyan"
    point_at(answered, answered.one("h1"))
    answered.until(lambda: drawn(answered, 1) == star)
    assert answered.all(".whose")[1].text == "Maps of the whole sentence"
    assert answered.all(".map")[2].get_attribute("alt").endswith("for the sentence: a cyan star")
    events = [json.loads(entry["message"])["message"] for entry in answered.driver.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert [address for address in asked if address.startswith("http")] == []


def test_words_are_reached_with_the_keyboard(answered) -> None:
    from selenium.webdriver.common.keys import Keys

    sentence = drawn(answered, 0)

    def press(key: str) -> None:
        answered.driver.switch_to.active_element.send_keys(key)

    answered.run("document.querySelectorAll('.word')[0].focus({focusVisible: true})")
    answered.until(lambda: answered.one(".whose").text.startswith("Maps of “a” alone"))
    press(Keys.ARROW_RIGHT)
    answered.until(lambda: answered.one(".whose").text.startswith("Maps of “red” alone"))
    press(Keys.END)
    answered.until(lambda: answered.one(".whose").text.startswith("Maps of “bar” alone"))
    press(Keys.SPACE)
    assert answered.all(".word")[2].get_attribute("aria-pressed") == "true"
    press(Keys.TAB)  # on to the next sentence: one stop a sentence
    assert answered.driver.switch_to.active_element == answered.all(".word")[3]
    assert answered.one(".whose").text.startswith("Maps of “bar” alone"), "pinned"
    press(Keys.SHIFT + Keys.TAB)
    press(Keys.ESCAPE)
    assert answered.all(".word")[2].get_attribute("aria-pressed") == "false"
    press(Keys.TAB)
    answered.until(lambda: drawn(answered, 0) == sentence)


def test_a_tap_shows_a_word_and_another_one_the_sentence(answered) -> None:
    screen(answered.driver, 390, touch=True)
    answered.run("scrollTo(0, 0)")
    answered.one("#compare").click()
    answered.until(lambda: answered.run("return document.querySelector('#result').getBoundingClientRect().top") < 450)
    sentence = drawn(answered, 0)

    def tap(element) -> None:
        answered.run("arguments[0].scrollIntoView({block: 'center'})", element)
        box = answered.run("return arguments[0].getBoundingClientRect().toJSON()", element)
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        answered.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        answered.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    words = answered.all(".word")
    tap(words[1])
    answered.until(lambda: answered.one(".whose").text.startswith("Maps of “red” alone"))
    assert drawn(answered, 0) == maps_of(answered, words[1])
    tap(words[2])
    answered.until(lambda: answered.one(".whose").text.startswith("Maps of “bar” alone"))
    tap(words[2])
    answered.until(lambda: drawn(answered, 0) == sentence)


def test_an_upload_is_shown_before_anything_is_computed(page, cat, monkeypatch) -> None:
    may_go_on = threading.Event()

    def late(*arguments) -> None:
        may_go_on.wait(60)
        raise ImageError("this comes late")

    monkeypatch.setattr("flair_jax.show.page.read_upload", late)
    page.upload(cat)
    page.until(lambda: page.run("return document.querySelector('#upload img')?.naturalWidth") == 451)
    assert page.one("#upload img").get_attribute("alt") == "the picture, as it was chosen"
    assert not page.one("#result .seen")
    may_go_on.set()
    page.until(lambda: "this comes late" in page.one("#result").text)


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_dark(wide, driver, url, dark: bool) -> None:
    """4.5 to 1, as WCAG asks for."""
    screen(driver, 1280, dark=dark)
    driver.get(url)
    page = Tab(driver)
    page.until(lambda: page.one("#examples td")).click()
    page.maps(EXAMPLE)
    assert (page.run("return document.body.classList.contains('dark')")) == dark
    point_at(page, page.all(".word")[1])
    page.until(lambda: page.one(".word.shown"))
    contrasts = page.run(CONTRASTS)
    page.write("a\n" * 20)
    page.one("#compare").click()
    page.until(lambda: page.one(".message"))
    assert page.one(".message").text == "at most 16 sentences and 4,000 characters at once, please"
    contrasts |= page.run(CONTRASTS)
    assert {"word shown red", "whose Maps of the whole sentence", "best 2.89"} <= set(contrasts)
    assert any(each.startswith("message") for each in contrasts)
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}


def test_dark_can_be_switched_on(page, wide) -> None:
    page.one("footer .settings").click()
    page.until(lambda: next((each for each in page.all("li, button") if each.text.endswith("Dark")), None)).click()
    page.until(lambda: page.run("return document.body.classList.contains('dark')"))
