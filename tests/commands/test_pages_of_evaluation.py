"""The commands of README and of the pages about evaluation and search, as they are printed."""

import pytest
from readme_sample import SAMPLE, check_printed
from run_pages import run_page, world_in

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


def test_readmes_python_prints_what_readme_says(tmp_path, monkeypatch, capsys) -> None:
    with world_in(tmp_path, monkeypatch) as world:
        world.make("demo")
        exec(compile(SAMPLE, "README.md", "exec"), {})
    check_printed(capsys.readouterr().out)
