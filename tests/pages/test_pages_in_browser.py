"""Pages in a real browser: nothing is cut or must be scrolled sideways, on screens of three widths and on paper."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tab import chromium

from flair_jax import pages
from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.demo.chart import chart
from flair_jax.demo.report import Cell
from flair_jax.evaluate.gallery import write_gallery
from flair_jax.evaluate.overlays import file_names, write_comparison
from flair_jax.evaluate.page import Section
from flair_jax.evaluate.task import Table
from flair_jax.search.page import write_page
from flair_jax.search.searcher import Hit

pytestmark = pytest.mark.browser

LONG = "x" * 120
KINDS = ("search", "evaluation", "segmentation", "demo")


def inline(side: int = 64) -> str:
    stream = io.BytesIO()
    Image.effect_noise((side, side), 60).save(stream, "png")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def write_search(folder: Path) -> None:
    files = [folder / name for name in ("a #1.png", "ü?.png", f"{LONG}.png")]
    for file in files:
        Image.effect_noise((300, 200), 60).save(file)
    write_page(folder / "search.html", f"a dog, {LONG}", [Hit(str(file), 0.5, 0.25) for file in [*files, "gone"]], 9)


def write_evaluation(folder: Path) -> None:
    rows = [["text to image R@1, by a long name of what was measured", "50.0", "60.0", f"Xiao et al., {LONG[:40]}"]]
    query = {
        "text": f"a caption {LONG}",
        "pictures": [("its own", LONG, LONG, inline()), ("found first", "b.png", "/a/b.png", "")],
    }
    values = {"title": f"/models/{LONG}", "columns": ["per cent", "others", "by whom"], "made": ["now"]}
    groups = [(f"retrieval: {name}, 5 images", rows * 3) for name in ("coco", LONG)]
    table = Table(
        "per cent", ["map", "pointing", "by pixel", "mean IoU", "box accuracy"], [["pooled-patches"] + ["1.0"] * 4]
    )
    kinds = Table(
        "by kind", ["kind", "questions", "text-conditioned", "box-tokens"], [[LONG, "1,000", "100.0", "100.0"]]
    )
    section = Section(f"retrieval: {LONG}", f"data: {LONG}", [table, kinds], [LONG], [], None)
    terms = {"retrieval": {"text-conditioned": "a word", LONG: LONG}}
    text = pages.render(
        "evaluation",
        "--report",
        **values,
        failures=[f"{LONG}: {LONG}"],
        groups=groups,
        terms=terms,
        sections=[(section, [query] * 7)],
    )
    pages.write(folder / "evaluation.html", text)


def write_segmentation(folder: Path) -> None:
    names, classes = [f"{number} #" for number in range(9)], ("cat", "dining table", LONG)
    truth = np.array([[0, 1], [2, 255]], np.uint8).repeat(60, 0).repeat(100, 1)
    data = SegmentationData(names, classes, (("x",),) * 3, ("{}",), 32, lambda _: None, "some")
    for file in file_names(names):
        picture = Image.effect_noise((200, 120), 60).convert("RGB")
        write_comparison(folder / file, picture, truth, np.zeros_like(truth), classes, data.palette)
    metrics = {"mean_iou": 0.5, "pixel_accuracy": 0.25, "iou": dict.fromkeys(classes, 0.5)}
    write_gallery(folder, data, metrics, "patches").rename(folder / "segmentation.html")


def write_demo(folder: Path) -> None:
    heading = ("per cent", "chance", "control", "FLAIR, global", "FLAIR, text-conditioned")
    cells = [Cell("50.0"), *[Cell("100.0", "(100.0 to 100.0)", best=True)] * 3]
    rows = [["true sentence beats one with another background", *cells]] * 12
    maps = [("a small striped red circle in the upper right", "upper right", inline())] * 3
    text = pages.render(
        "demo",
        "--x",
        scenes=512,
        controls=3,
        heading=heading,
        tables=[("Means of trainings", rows)] * 3,
        examples=[(inline(), "a scene", maps)] * 6,
        looked="Most of it is elsewhere.",
        learned="Learned least: relation.",
        facts=["Made by `flair-jax demo --full --control --seed SEED`."],
        chart=chart({"recorded": [(20, 7.9), (1500, 1.7)], "here": [(20, 7.9), (60, 7.3)]}),
    )
    pages.write(folder / "demo.html", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One page of each kind, with long names and long words, in a folder that was moved."""
    made = tmp_path_factory.mktemp("pages") / "made"
    made.mkdir()
    for write in (write_search, write_evaluation, write_segmentation, write_demo):
        write(made)
    return made.rename(made.with_name("moved, #2 %20"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def open_page(driver, folder: Path, kind: str, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get((folder / f"{kind}.html").as_uri())


# Elements of text that reach over the side of the screen, or over the cell or column that they are in.
OUTSIDE = """
return [...document.querySelectorAll("h1, h2, h3, p, th, td, li, figure, figcaption, blockquote")]
  .filter((each) => each.getClientRects().length)
  .filter((each) => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).display !== "inline"
                    || each.getBoundingClientRect().right > innerWidth + 1 || each.getBoundingClientRect().left < -1)
  .map((each) => each.outerHTML.slice(0, 80));
"""


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_and_nothing_scrolls_sideways(driver, folder, kind, width) -> None:
    open_page(driver, folder, kind, width)
    assert driver.execute_script("const page = document.documentElement; return page.scrollWidth <= page.clientWidth")
    assert driver.execute_script(OUTSIDE) == []


# Pieces of text without spaces or hyphens that stand on two lines, in cells, headings and captions of usual words.
BROKEN = """
const broken = [], range = document.createRange();
for (const each of document.querySelectorAll("th, .range, .chart span, code span")) {
  const nodes = document.createTreeWalker(each, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) for (const word of nodes.currentNode.data.matchAll(/[^\\s-]+/g)) {
    range.setStart(nodes.currentNode, word.index); range.setEnd(nodes.currentNode, word.index + word[0].length);
    const lines = new Set([...range.getClientRects()].map((line) => line.top));
    if (word[0].length < 40 && lines.size > 1) broken.push(word[0]);
  }
  if (each.matches(".range") && each.getClientRects().length > 1) broken.push(each.textContent);
}
return broken;
"""


@pytest.mark.parametrize("width", [390, 768, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_no_word_is_broken(driver, folder, kind, width) -> None:
    open_page(driver, folder, kind, width)
    assert driver.execute_script(BROKEN) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_picture_is_found_where_the_folder_was_moved_to(driver, folder, kind) -> None:
    open_page(driver, folder, kind, 1280)
    loaded = (
        "const all = [...document.images]; for (const each of all) each.loading = 'eager';"
        "return Promise.all(all.map((each) => each.decode())).then(() => all.length);"
    )
    assert driver.execute_script(loaded) > 2
    links = driver.execute_script("return [...document.querySelectorAll('a')].map((each) => each.href)")
    for link in links:
        driver.get(link)
        assert driver.execute_script("return document.images[0].naturalWidth") > 0


@pytest.mark.parametrize("kind", KINDS)
def test_dark_and_light(driver, folder, kind) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        open_page(driver, folder, kind, 768, scheme)
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 60) is dark


@pytest.mark.parametrize("kind", KINDS)
def test_on_paper(driver, folder, kind) -> None:
    """Also for who prints from a dark room with backgrounds: as it is laid out for paper, nothing is dark or cut."""
    open_page(driver, folder, kind, 718, "dark")
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert driver.execute_script(OUTSIDE) == []
    heads = driver.execute_script(
        "return [...document.querySelectorAll('thead')].map((each) => getComputedStyle(each).display)"
    )
    assert set(heads) <= {"table-header-group"}
    printed = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
