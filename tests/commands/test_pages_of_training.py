"""The commands of the pages about training, its data, plans and launchers, as they are printed."""

import pytest
from run_pages import run_page

# The page -> what its commands find, of `made_world.MAKERS`.
PAGES = {
    "docs/data.md": ("cc3m_recaption.csv", "old", "demo"),
    "docs/health.md": ("demo", "runs/demo", "~/tensorflow_datasets/cc3m"),
    "docs/optimizers.md": ("~/tensorflow_datasets/cc3m",),
    "docs/packing.md": ("cc3m",),
    "docs/plan.md": (),
    "docs/pods.md": (),
    "docs/training.md": ("demo", "cc3m"),
    "launch/README.md": (),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page: str, tmp_path, monkeypatch) -> None:
    run_page(page, PAGES[page], tmp_path, monkeypatch)
