"""The notebook runs, and shows what is kept in it; `python benchmarks/notebook.py` makes that anew."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """What each cell of code has printed; a picture is the word "picture"."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            outputs = [each.get("text") or "picture\n" * ("image/png" in each.data) for each in cell.outputs]
            texts.append("".join(outputs))
    return texts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[nbformat.NotebookNode, nbformat.NotebookNode, Path]:
    """As it is kept, as it is after it has run, and where it ran."""
    script = runpy.run_path(str(REPOSITORY / "benchmarks/notebook.py"))
    folder = tmp_path_factory.mktemp("notebook")
    return nbformat.read(script["NOTEBOOK"], as_version=4), script["run"](folder), folder


def test_it_shows_what_is_kept_in_it(run) -> None:
    """Scores are printed as whole numbers, which may round to either side; numbers of devices are the machine's own."""
    kept, new, _ = run
    ignored = re.compile(r"\d+ cpu devices?|\x1b\[\d*m")
    for before, after in zip(printed(kept), printed(new), strict=True):
        before, after = (ignored.sub("", text) for text in (before, after))
        assert NUMBER.sub("", before).split() == NUMBER.sub("", after).split()
        numbers = [[float(number) for number in NUMBER.findall(text)] for text in (before, after)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1)


def test_it_does_what_it_says(run) -> None:
    _, new, folder = run
    texts = printed(new)
    assert sum(text.count("picture\n") for text in texts) == 3
    assert texts[-1].splitlines()[-1] == "checkpoint of step 20; finished: True", "the run went on to its last step"
    assert (folder / "quickstart/run/checkpoints/20").is_dir()
    best = [re.split(r"\s+", line.partition("sentence ")[2]) for line in texts[4].splitlines() if "sentence" in line]
    assert [row[1].endswith("*") for row in best[:3]] == [True] * 3, "text-conditioned, the first picture is the best"


@pytest.mark.parametrize(
    ("notebook", "checkout"), [(".", "flair_jax"), ("flair_jax/examples", "flair_jax"), (".", None)]
)
def test_it_installs_the_checkout_beside_or_around_it(tmp_path, notebook: str, checkout: str | None) -> None:
    """With an interpreter that has no packages, and with no pip: what it would run is printed."""
    cell = next(
        cell for cell in nbformat.read(REPOSITORY / "examples/quickstart.ipynb", 4).cells if "pip" in cell.source
    )
    if checkout:
        (tmp_path / checkout / "flair_jax").mkdir(parents=True)
        (tmp_path / checkout / "flair_jax/__init__.py").touch()
    (tmp_path / notebook).mkdir(parents=True, exist_ok=True)
    told = "import subprocess; subprocess.run = lambda words, check: print(words[-1], end='')\n" + cell.source
    done = subprocess.run([sys.executable, "-S", "-c", told], cwd=tmp_path / notebook, capture_output=True, text=True)
    assert done.stdout == (f"{(tmp_path / checkout).resolve()}[demo]" if checkout else "")
    assert (done.returncode, "clone it first" in done.stderr) == ((0, False) if checkout else (1, True))


def test_what_is_kept_is_small_and_nobodys(run) -> None:
    kept, _, _ = run
    text = nbformat.writes(kept)
    assert len(text) < 400_000
    assert str(Path.home()) not in text
    assert not re.search(r"execution_(start|state)|iopub|/tmp/", text)
