"""How to install what is missing, for each way in which the package can have come; tests/test_wheel.py pastes some."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import flair_jax
from flair_jax import packages
from flair_jax.packages import how_to_install

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
METADATA = """Metadata-Version: 2.4
Name: flair-jax
Version: {version}
Requires-Dist: jax
Provides-Extra: demo
Requires-Dist: matplotlib>=3.9; extra == "demo"
Requires-Dist: jinja2<4,>=3.1; (python_version > "3") and extra == "demo"
Requires-Dist: jax[tpu]; extra == "tpu"
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A function that installs the package as pip does, told where it came from, into an active environment."""
    monkeypatch.setattr(packages, "_BESIDE", tmp_path)
    monkeypatch.setattr(packages, "_is_of_this_environment", lambda program: True)
    info = tmp_path / f"flair_jax-{flair_jax.__version__}.dist-info"

    def install(direct_url: str = "") -> None:
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(METADATA.format(version=flair_jax.__version__))
        if direct_url:
            (info / "direct_url.json").write_text(direct_url)
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_every_extra_that_is_asked_for_is_there() -> None:
    files = [file for room in ("flair_jax", "convert") for file in (REPOSITORY / room).glob("**/*.py")]
    named = {name for file in files for name in re.findall(r"how_to_install\(['\"](\w+)['\"]\)", file.read_text())}
    assert {"app", "beam", "convert", "demo", "export", "faiss", "masks", "tokenizers", "tpu", "wandb"} <= named
    assert named <= set(PROJECT["optional-dependencies"])
    assert "flair-jax" not in re.findall(r'"([^"]*)"', " ".join(map(how_to_install, named - {"app", "beam"})))


def test_no_requirement_is_listed_twice() -> None:
    for needed in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        names = [re.match(r"[\w-]+", each)[0].lower() for each in needed]
        assert len(names) == len(set(names)), needed


def test_the_python_that_is_named_runs_these_tests() -> None:
    named = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each}
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named
    assert min(named) == PROJECT["requires-python"].removeprefix(">=")


def test_a_checkout_is_asked_for_what_it_says_now(monkeypatch) -> None:
    """Whatever an editable install has noted of it, and from any folder."""
    monkeypatch.setattr(packages, "_is_of_this_environment", lambda program: True)
    monkeypatch.setattr("importlib.metadata.requires", lambda name: [])
    assert how_to_install("demo") == 'pip install "matplotlib>=3.9" "jinja2>=3.1" (the extra `demo`)'
    assert how_to_install("app") == (
        f'python -m venv .venv-app && .venv-app/bin/pip install -c "{REPOSITORY}/constraints-app.txt" '
        f'-e "{REPOSITORY}[app]" (the extra `app`), and then .venv-app/bin/flair-jax'
    )


def test_an_install_is_asked_for_the_requirements_themselves(installed) -> None:
    installed()
    assert how_to_install("demo") == 'pip install "matplotlib>=3.9" "jinja2<4,>=3.1" (the extra `demo`)'
    assert how_to_install("tpu") == 'pip install "jax[tpu]" (the extra `tpu`)'
    with pytest.raises(KeyError):
        how_to_install("nonsense")


@pytest.mark.parametrize(
    ("direct_url", "source"),
    [
        ("", f'"flair-jax[beam]=={flair_jax.__version__}"'),
        ('{"url": "file:///a%20b/f.whl", "archive_info": {}}', '"flair-jax[beam] @ file:///a%20b/f.whl"'),
        ('{"url": "https://h/f.whl", "archive_info": {}}', '"flair-jax[beam] @ https://h/f.whl"'),
        (
            '{"url": "https://h/f.git", "vcs_info": {"vcs": "git", "commit_id": "1ab", "requested_revision": "main"}}',
            '"flair-jax[beam] @ git+https://h/f.git@1ab"',
        ),
        ('{"url": "file:///a%20b", "dir_info": {}}', '-c "/a b/constraints-beam.txt" "/a b[beam]"'),
    ],
)
def test_an_environment_of_its_own_has_the_package_from_where_this_one_came(installed, direct_url, source) -> None:
    installed(direct_url)
    assert how_to_install("beam").startswith(f"python -m venv .venv-beam && .venv-beam/bin/pip install {source} (the")


def test_another_projects_file_among_the_packages_is_not_read(installed, tmp_path) -> None:
    """Some wheels bring theirs along."""
    installed()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n[project.optional-dependencies]\ndemo = ["x"]')
    assert "matplotlib" in how_to_install("demo")


@pytest.mark.parametrize(
    ("active", "has_pip", "command"),
    [
        (True, True, "pip install"),
        (False, True, "'{folder}/my bin/python' -m pip install"),
        (False, False, "uv pip install --python '{folder}/my bin/python'"),
    ],
)
def test_pip_is_that_of_this_environment(tmp_path, monkeypatch, active, has_pip, command) -> None:
    """Though another may be first on the path, or none be there."""
    programs = tmp_path / "my bin"
    for folder in (programs, tmp_path / "other"):
        folder.mkdir()
        (folder / "pip").write_text("#!/bin/sh\n")
        (folder / "pip").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", str(programs if active else tmp_path / "other"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "it" if has_pip else None)
    assert how_to_install("faiss").startswith(command.format(folder=tmp_path) + ' "faiss-cpu>=1.9" (')
