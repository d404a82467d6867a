"""Makes the picture of the page in docs/demo-app.md: `python tests/show/screenshot.py docs/images/demo_app.png`.

It shows the shipped model's answer to the first example, with a word pinned.
"""

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from tab import Tab, chromium

import flair_jax
from flair_jax.show.app import serving
from flair_jax.show.page import Page

WIDTH = 1100


def main(output: Path) -> None:
    model = Path(flair_jax.__file__).parent / "demo" / "model"
    with (
        tempfile.TemporaryDirectory() as profile,
        serving(Page(*flair_jax.load(model))) as url,
        chromium(Path(profile)) as driver,
    ):
        driver.get(url)
        page = Tab(driver)
        page.until(lambda: page.one("#examples td")).click()
        page.maps(["a red bar"])
        page.run("document.querySelectorAll('.word')[4].click()")
        resize(driver, 900)
        resize(driver, page.run("return document.documentElement.scrollHeight"))
        driver.save_screenshot(str(output))
    drawn = Image.open(output).convert("RGB")
    palette = drawn.quantize(256, method=Image.Quantize.MAXCOVERAGE)
    drawn.quantize(palette=palette).save(output, optimize=True)  # dithered


def resize(driver, height: int) -> None:
    metrics = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    time.sleep(1)  # until it is drawn


if __name__ == "__main__":
    main(Path(sys.argv[1]))
