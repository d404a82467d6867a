"""`--config` by name and by path, from any folder, and `flair-jax configs`."""

import subprocess
import sys
from pathlib import Path

import pytest

from flair_jax.cli import main
from flair_jax.errors import ConfigError
from flair_jax.settings import TrainSettings
from flair_jax.train.config_files import shipped_configs, summary_of
from flair_jax.train.flags import parse_config

OWN = "import ml_collections\ndef get_config(x=''): return ml_collections.ConfigDict({'x': x})"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working folder that is no checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_shipped_ones_are_found_by_name_from_anywhere(capsys) -> None:
    for name in ("demo", "configs/demo.py", "demo.py"):
        assert parse_config([f"--config={name}"]).model == "scenes"
        said = capsys.readouterr().err
        assert f"--config={name}: the one that is shipped, {shipped_configs()['demo']}\n" in said
    with pytest.raises(ConfigError, match="takes 0 positional arguments but 1 was given"):
        parse_config(["--config=demo:small"])


def test_a_folder_of_that_name_hides_nothing(elsewhere) -> None:
    """As `make demo` leaves one."""
    (elsewhere / "demo").mkdir()
    assert parse_config(["--config=demo"]).model == "scenes"


def test_of_a_file_and_a_shipped_one_of_the_same_name_the_file_is_taken_and_it_is_said(elsewhere, capsys) -> None:
    (elsewhere / "demo").write_text(OWN)
    assert parse_config(["--config", "demo:a:b"]).x == "a:b"
    assert capsys.readouterr().err == (
        "flair-jax: --config=demo: the file of this folder; the shipped configuration is demo.py\n"
    )
    assert parse_config(["--config=demo.py"]).model == "scenes", "as it was just said"


def test_a_file_that_a_name_does_not_mean_is_mentioned(elsewhere, capsys) -> None:
    (elsewhere / "demo.py").write_text(OWN)
    assert parse_config(["--config=demo"]).model == "scenes"
    assert capsys.readouterr().err.endswith("demo.py; the file demo.py of this folder is --config=demo.py\n")
    assert parse_config(["--config=demo.py:mine"]).x == "mine"
    assert parse_config([f"--config={elsewhere / 'demo.py'}:mine"]).x == "mine"
    assert capsys.readouterr().err == "", "a path says itself what it is"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cc3m_recpa", '. Did you mean "cc3m_recap" or "cc12m_recap" or "yfcc15m_recap"?'),
        ("configs/dmeo.py", '. Did you mean "demo"?'),
        ("finetune", '. Did you mean "finetune_long" or "finetune_coco" or "finetune_flickr30k"?'),
        ("longer_train.py", '. Did you mean "long_train.py"?'),
        ("folder/longer_train.py", '. Did you mean "folder/long_train.py"?'),
        ("no/such/folder.py", "yfcc15m_recap"),
        ("\0", "yfcc15m_recap"),
    ],
)
def test_a_misspelt_name_lists_what_is_like_it(elsewhere, name: str, near: str) -> None:
    for own in (elsewhere / "long_train.py", elsewhere / "folder" / "long_train.py"):
        own.parent.mkdir(exist_ok=True)
        own.write_text(OWN)
    with pytest.raises(ConfigError, match="no such configuration file; shipped are cc12m_recap, ") as caught:
        parse_config([f"--config={name}"])
    assert str(caught.value).endswith(near)


def test_the_list_has_a_line_for_each(capsys) -> None:
    assert main(["configs"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == list(shipped_configs())
    assert len(lines) > 8
    assert lines["demo"] == "A small FLAIR on drawn scenes, for `make demo`."
    assert all(summary_of(file) == lines[name] != "" for name, file in shipped_configs().items())
    assert all(file.read_text("utf-8").isascii() for file in shipped_configs().values()), "any terminal can print it"


def test_each_is_printed_as_a_file_that_works_anywhere(elsewhere, capsys) -> None:
    for name, file in shipped_configs().items():
        assert main(["configs", name]) == 0
        printed = capsys.readouterr().out
        assert printed == file.read_text("utf-8")
        Path("mine.py").write_text(printed)
        own, shipped = (TrainSettings.from_config(parse_config([f"--config={each}"])) for each in ("mine.py", name))
        assert own == shipped
        capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("cc3m", '. Did you mean "cc3m_recap"?'),
        ("dmeo", '. Did you mean "demo"?'),
        ("", ""),
        ("../default", '"default"?'),
    ],
)
def test_an_unknown_name_prints_nothing(capsys, name: str, near: str) -> None:
    assert main(["configs", name]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f"no configuration {name} is shipped; there are cc12m_recap, " in printed.err
    assert near in printed.err


def test_they_are_listed_without_loading_jax() -> None:
    script = "import sys; from flair_jax.cli import main; main(['configs']); print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
