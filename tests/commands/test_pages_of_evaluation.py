"""The commands of README and of the pages about evaluation and search, as they are printed."""

import pytest
from run_pages import run_page

# The page -> what its commands find, of `made_world.MAKERS`.
PAGES = {
    "README.md": ("demo", "hf://xiaorui638/flair", "~/datasets/coco", "cc3m"),
    "docs/attend.md": ("checkpoints/cc3m", "demo", "kettle.jpg"),
    "docs/choosing.md": ("checkpoints/cc3m", "demo", "~/coco", "~/winoground"),
    "docs/classification.md": ("checkpoints/merged30m", "demo, all its scenes", "~/imagenet", "~/cifar", "~/pets"),
    "docs/pointing.md": ("checkpoints/cc3m", "demo", "~/coco", "~/flickr30k_entities"),
    "docs/search.md": ("checkpoints/cc3m", "demo", "~/pictures", "kettle.jpg", "captions.txt"),
    "docs/segmentation.md": ("checkpoints/merged30m", "demo", "~/data"),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page: str, tmp_path, monkeypatch) -> None:
    run_page(page, PAGES[page], tmp_path, monkeypatch)
