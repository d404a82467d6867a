"""The site: its links work as they do in the repository, and what is wrong in a page or a docstring ends the build."""

import logging
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]

MODULE = '''"""A room."""


class Pool:
    """Pools."""

    def mean(self, rows: list[float]) -> float:
        """The mean.

        Args:
          rows: numbers.
        """
        return sum(rows) / len(rows)


def _private() -> None:
    """Not shown."""
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A small repository with this one's mkdocs.yml and hooks; gives a function that builds its site."""
    files = {
        "README.md": "# Room\n\n[page](docs/page.md#part), [all](launch/), ![p](docs/p.png), [one](launch/run.sh)\n",
        "launch/README.md": "# Launch\n\n[back](../README.md)\n",
        "launch/run.sh": "true\n",
        "CONTRIBUTING.md": "# Contributing\n",
        "CHANGELOG.md": "# Changelog\n",
        "docs/page.md": "# A\n## Part\n[`Pool.mean`](../room/pool.py), [room](../room), [back](../README.md#room)\n",
        "docs/p.png": "",
        "docs/hooks.py": (ROOT / "docs/hooks.py").read_text(),
        "docs/wide.css": "",
        "mkdocs.yml": (ROOT / "mkdocs.yml").read_text(),
        "flair_jax/__init__.py": '"""A package."""\n',
        "room/__init__.py": '"""A room that lies beside the package."""\n',
        "room/pool.py": MODULE,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "flair_jax/room").symlink_to("../room")
    monkeypatch.chdir(tmp_path)

    def build_site() -> Path:
        pages = ["index.md", "page.md", "launch.md", "contributing.md", "changelog.md"]
        build(load_config("mkdocs.yml", nav=pages, theme={"name": "mkdocs"}))
        return tmp_path / "site"

    return build_site


def test_links_lead_to_pages_modules_names_and_copies(site):
    built = site()
    overview, page = (built / "index.html").read_text(), (built / "page.html").read_text()
    for link in ('href="page.html#part"', 'href="launch.html"', 'src="p.png"', 'href="files/launch/run.sh"'):
        assert link in overview
    for link in ("api/flair_jax/room/pool.html#flair_jax.room.pool.Pool.mean", "api/flair_jax/room/index.html"):
        assert f'href="{link}"' in page
    assert (built / "files/launch/run.sh").read_text() == "true\n"
    module = (built / "api/flair_jax/room/pool.html").read_text()
    assert 'id="flair_jax.room.pool.Pool.mean"' in module
    assert 'id="flair_jax.room.pool._private"' not in module


@pytest.mark.parametrize(
    ("file", "right", "wrong", "says"),
    [
        ("docs/page.md", "../README.md", "../READ.md", "READ.md"),
        ("docs/page.md", "README.md#room", "README.md#rooms", "rooms"),
        ("docs/page.md", "Pool.mean", "Pool.median", "defines no such name"),
        ("docs/page.md", "../room/pool.py", "../room/pools.py", "pools.py"),
        ("docs/page.md", "../room)", "../rooms)", "../rooms"),
        ("README.md", "launch/run.sh", "launch/run.bash", "run.bash"),
        ("README.md", "docs/p.png", "docs/q.png", "q.png"),
        ("launch/README.md", "../README.md", "../docs/none.md", "none.md"),
        ("room/pool.py", "rows: numbers", "row: numbers", "Parameter 'row' does not appear in the function signature"),
    ],
)
def test_what_is_wrong_ends_the_build(site, caplog, file, right, wrong, says):
    text = Path(file).read_text()
    assert right in text
    Path(file).write_text(text.replace(right, wrong))
    with caplog.at_level(logging.WARNING), pytest.raises(Abort):
        site()
    assert says in caplog.text


def test_a_page_outside_of_the_index_ends_the_build(site, caplog):
    Path("docs/lost.md").write_text("# Lost\n")
    with caplog.at_level(logging.WARNING), pytest.raises(Abort):
        site()
    assert "lost.md" in caplog.text
