"""Runs the commands of a document as they are printed, in a made world.

bash expands each line. A line that is one command of `flair-jax` then runs in this process, which has loaded JAX;
all others run in bash, with the environment's programs first in PATH.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from accounts import becomes
from documents import Command, commands
from made_hub import made_hub, use_here
from made_world import World, shared
from ports import free_port

from flair_jax.cli import main
from flair_jax.configs.default import get_config

# Pages whose print depends on more than the made world has.
NOT_COMPARED = ("docs/health.md",)
# In the unit that is printed, where 0.02 is too little on other machines: a picture of a class is so many per cent.
TOLERANCES = {"docs/classification.md": 1.8}
# Of commands that compute too much for code that is not optimised, as the tests' is.
OPTIMISED = ("--segment-by pooled-patches",)
_ALONE = re.compile(r"^flair-jax\s[^;&|<>]*$")


@contextlib.contextmanager
def world_in(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A world, whose folder is the working folder and whose home is HOME, with a hub."""
    with made_hub(folder / "hub") as environment:
        world = World(folder)
        use_here(monkeypatch, environment)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(world.home))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("EDITOR", "true")
        monkeypatch.setenv("MPLCONFIGDIR", str(Path(shared.name) / "matplotlib"))  # where its list of fonts is
        monkeypatch.chdir(world.folder)
        yield world


def run_page(page: str, needs: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs all commands of a page in their order, but for exceptions and what is only mentioned."""
    with world_in(folder, monkeypatch) as world:
        world.make(*needs)
        names: dict[str, object] = {"c": get_config()}  # of lines of a configuration file
        printed: dict[int, str] = {}  # by each block
        for command in commands(page):
            if becomes(command) != "run":
                continue
            if command.title:
                with Path(command.title).open("a") as file:
                    file.write(command.text)
            elif command.language == "python":
                _run_python(command, names)
            else:
                printed[command.block] = printed.get(command.block, "") + _run_line(command.text)
                for file in re.findall(r"--(?:output|report|html|save) (\S+)", command.text):
                    assert Path(file).exists(), f"{command.text}: wrote no {file}"
                if command.printed and page not in NOT_COMPARED:
                    assert_alike(printed[command.block], command.printed, TOLERANCES.get(page, 0.02))


def _run_python(command: Command, names: dict[str, object]) -> None:
    try:
        exec(compile(command.text, command.page, "exec"), names)
    except Exception as error:
        raise AssertionError(f"{command.name}: {error!r}") from error


def _run_line(text: str) -> str:
    """What a line prints; fails if its status is not 0."""
    # The documents' port may be taken by another suite that runs at the same time.
    text = text.replace("127.0.0.1:1234", f"127.0.0.1:{free_port()}")
    joined = text.replace("\\\n", " ")
    optimised = any(words in text for words in OPTIMISED)
    if optimised or not _ALONE.match(joined):
        environment = os.environ | ({"XLA_FLAGS": ""} if optimised else {})
        done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)
        assert not done.returncode, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout
    script = "flair-jax() { printf '%s\\0' \"$@\"; }\n" + text
    expanded = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(expanded.split("\0")[:-1])
    assert not status, f"{text}: status {status}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue()


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def assert_alike(printed: str, expected: str, tolerance: float) -> None:
    """Compares line by line: words alike, and numbers with decimals nearly so; counts are of how much data there is.

    The figures of the documents are of one machine; on others the last digits differ.
    """
    lines, wanted = (
        [" ".join(line.replace("...", "").split()) for line in text.splitlines() if line.strip()]
        for text in (printed, expected)
    )
    assert len(lines) == len(wanted), f"{printed}\nis not as long as\n{expected}"
    for line, want in zip(lines, wanted, strict=True):
        words = _NUMBER.sub(" ", want).split()
        assert all(word in line for word in words), f"{line!r} is not like {want!r}"
        found, shown = ([float(each) for each in _NUMBER.findall(text) if "." in each] for text in (line, want))
        assert found == pytest.approx(shown, rel=0.05, abs=tolerance), f"{line!r} is not like {want!r}"
