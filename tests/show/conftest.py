"""What the tests in a browser share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tab import Tab, chromium
from test_page import Hit


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Iterator:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class StandIn:
    """A search that finds one picture, whatever is asked."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def search(self, sentence: str, top: int = 20, rerank: int = 200) -> list[Hit]:
        return [Hit(self.path, 0.5, 0.25)]


@pytest.fixture(scope="session")
def cat(photographs) -> Path:
    return photographs / "images" / "val2017" / "chelsea.png"


@pytest.fixture(scope="session")
def url(cat) -> Iterator[str]:
    """Of a page with the demonstration's model."""
    import flair_jax
    from flair_jax.show.app import serving
    from flair_jax.show.page import Page

    model = Path(flair_jax.__file__).parent / "demo" / "model"
    with serving(Page(*flair_jax.load(model), StandIn(cat))) as url:
        yield url


@pytest.fixture
def page(driver, url):
    driver.get(url)
    return Tab(driver)
