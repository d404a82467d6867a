"""The page for those who come from the PyTorch release names what there is."""

import contextlib
import re
from pathlib import Path

from flair_jax.cli import main
from flair_jax.configs.default import get_config, get_evaluation

PAGE = (Path(__file__).parents[1] / "docs" / "migrate.md").read_text()


def test_every_field_that_it_names_is_one() -> None:
    config = get_config()
    config.evaluations.coco = get_evaluation()
    named = set(re.findall(r"config\.([a-z_0-9]+(?:\.[a-z_0-9]+)*)", PAGE)) - {"evaluations.imagenet", "json"}
    assert len(named) > 30
    unknown = []
    for name in named:
        group = config
        for part in name.split("."):
            if part not in group:
                unknown.append(name)
                break
            group = group[part]
    assert unknown == []


def test_every_option_that_it_names_is_one(capsys) -> None:
    """In the right column: those of the left are the release's."""
    theirs = {flag for line in PAGE.splitlines() for flag in re.findall(r"`(--[a-z0-9-]+)", line.split(" | ")[0])}
    ours = {
        flag for line in PAGE.splitlines() for flag in re.findall(r"(?<=[` ])(--[a-z-]+)", line.partition(" | ")[2])
    }
    assert len(theirs) > 150
    known = ""
    for command in ("evaluate", "attend", "train", "convert"):
        with contextlib.suppress(SystemExit):
            main([command, "--help"])
        known += capsys.readouterr().out
    assert sorted(flag for flag in ours if not re.search(rf"{flag}\b", known)) == []
