"""The commands of the pages about weights, exports and models of one's own, as they are printed."""

import pytest
from run_pages import run_page

# The page -> what its commands find, of `made_world.MAKERS`.
PAGES = {
    "docs/checkpoints.md": ("~/tensorflow_datasets/cc3m", "logs/cc3m/checkpoints/epoch_12.pt"),
    "docs/convert.md": (
        *("hf://xiaorui638/flair", "hf://laion", "hf://google", "hf://facebook"),
        *("run.pt", "ViT-B-16.pt", "longclip-B.pt", "flair-merged30m.pt"),
        *("~/tensorflow_datasets/cc3m", "~/pictures", "~/coco"),
    ),
    "docs/evaluation.md": ("checkpoints/cc3m", "~/coco", "~/datasets/coco"),
    "docs/export.md": ("checkpoints/cc3m", "picture.jpg"),
    "docs/migrate.md": (),
    "docs/model.md": ("mine.py", "~/tensorflow_datasets/cc3m", "~/coco", "~/pictures"),
    "docs/processes.md": ("checkpoints/cc3m", "coco"),
}


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run(page: str, tmp_path, monkeypatch) -> None:
    run_page(page, PAGES[page], tmp_path, monkeypatch)
