"""Ways to have the package: a wheel, a source distribution, an editable install, and a checkout that is not installed.

`flair_jax/configs` and `flair_jax/convert` are links to folders at the top level; each way keeps them in the package.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from built import REPOSITORY, build, copy_checkout

import flair_jax

# Loads nothing that only an environment has.
IMPORTS = "import flair_jax.cli, flair_jax.configs, flair_jax.convert, flair_jax.train"


def run(*words: object, folder: Path, **environment: str) -> str:
    """Standard output of this Python, without the environment's packages if `words` start with -S."""
    process = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("install") / "checkout")


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    return build("wheel", checkout, checkout.parent / "wheel")


def files_of(wheel: Path) -> dict[str, bytes]:
    """Each file's content; a name that is there twice fails."""
    with zipfile.ZipFile(wheel) as archive:
        names = [each for each in archive.namelist() if ".dist-info/RECORD" not in each]
        assert len(names) == len(set(names))
        return {name: archive.read(name) for name in names}


def test_a_wheel_holds_every_file_once(checkout: Path, wheel: Path) -> None:
    def below(folder: Path) -> dict[str, bytes]:
        found = {}
        for path in folder.iterdir():
            if path.name != "__pycache__":
                found |= below(path) if path.is_dir() else {str(path.relative_to(checkout)): path.read_bytes()}
        return found

    made = files_of(wheel)
    assert {name: data for name, data in made.items() if ".dist-info/" not in name} == below(checkout / "flair_jax")
    assert {"flair_jax/configs/default.py", "flair_jax/convert/transfer.py", "flair_jax/py.typed"} <= set(made)
    licences = {name.partition("/licenses/")[2] for name in made if "/licenses/" in name}
    assert licences == {
        "LICENSE",
        "flair_jax/data/clip_vocabulary/LICENSE",
        "flair_jax/data/sets/clip_prompts/LICENSE",
    }


def test_a_source_distribution_makes_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", checkout, tmp_path)) as archive:
        assert all(member.isfile() or member.isdir() for member in archive), "no links, which could break"
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert files_of(build("wheel", source, tmp_path / "wheel")) == files_of(wheel)


def test_a_source_distribution_holds_all_that_git_does(tmp_path: Path) -> None:
    """So that it builds, tests and documents itself; the two links are folders there, and what they lead to as well."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a checkout of git")
    listed = run_git("ls-files", "-z").split("\0")
    names = [name for name in listed if name and os.path.lexists(REPOSITORY / name)]
    for name in names:
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target, follow_symlinks=False)
    with tarfile.open(build("sdist", tmp_path / "checkout", tmp_path)) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(names) - held == {".gitignore", "flair_jax/configs", "flair_jax/convert"}
    assert {"flair_jax/configs/default.py", "flair_jax/convert/transfer.py", "tests/golden/tiny.pt"} <= held


def test_an_editable_install_reads_the_checkout(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build("editable", checkout, tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    script = f"import site; site.addsitedir({str(tmp_path / 'site')!r}); {IMPORTS}; print(flair_jax.convert.__file__)"
    assert run("-S", "-c", script, folder=tmp_path) == f"{checkout}/flair_jax/convert/__init__.py\n"


def test_a_checkout_runs_where_it_is_not_installed(checkout: Path) -> None:
    assert run("-m", "flair_jax.cli", "--version", folder=checkout).startswith("flair-jax ")
    extra = "from flair_jax.packages import how_to_install; print(how_to_install('demo'))"
    printed = run("-S", "-c", extra, folder=checkout)
    # -S hides pip, unless the environment is active.
    assert re.fullmatch(r'(uv )?pip install .*"matplotlib>=3.9" "jinja2>=3.1" \(the extra `demo`\)\n', printed)


def test_a_checkout_goes_before_one_that_is_installed(checkout: Path, tmp_path: Path) -> None:
    """This environment has the package from elsewhere; nothing of that comes in."""
    script = (
        f"{IMPORTS}; import sys, flair_jax.configs.default; from flair_jax.packages import versions; "
        "print(versions()['flair-jax'], *{module.__file__ for name, module in sys.modules.items()"
        " if name.partition('.')[0] in ('flair_jax', 'configs', 'convert')}, sep='\\n')"
    )
    version, *files = run("-c", script, folder=tmp_path, PYTHONPATH=str(checkout)).splitlines()
    assert version == flair_jax.__version__
    assert f"{checkout}/flair_jax/configs/default.py" in files
    assert all(file.startswith(f"{checkout}/flair_jax/") for file in files), files


def test_a_checkout_without_links_says_so(tmp_path: Path) -> None:
    """As git writes it on Windows, and zip files unpacked by what knows no links."""
    if not (REPOSITORY / "flair_jax/configs").is_symlink():
        pytest.skip("a source distribution, which has no links")
    broken = copy_checkout(tmp_path / "checkout")
    for name in ("configs", "convert"):
        (broken / "flair_jax" / name).unlink()
        (broken / "flair_jax" / name).write_text(f"../{name}")
    process = subprocess.run(
        [sys.executable, "-S", "-m", "flair_jax.cli", "--help"], cwd=broken, capture_output=True, text=True, check=False
    )
    assert process.stderr.splitlines()[-1] == (
        f"ImportError: {broken}/flair_jax/configs is not a folder: flair_jax/configs and flair_jax/convert are "
        "symbolic links, which this checkout lacks; clone it with `git clone -c core.symlinks=true`"
    )
