"""Launchers as users start them, with programs that record how they were called in place of real ones."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# Whatever a launcher could start is recorded; `sleep` returns at once where a test gives it.
PROGRAMS = ("gcloud", "docker", "xpk", "sbatch", "srun", "scontrol")


def write_settings(folder: Path, **settings: object) -> Path:
    """A settings file; a list becomes a list in parentheses."""
    lines = [
        f"{name}=({shlex.join(map(str, value))})" if isinstance(value, list) else f"{name}={shlex.quote(str(value))}"
        for name, value in settings.items()
    ]
    path = folder / "run.env"
    path.write_text("\n".join(lines) + "\n")
    return path


class Programs:
    """A folder of programs on PATH; each appends its words to a record and then does what its code says."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self._record = folder / "calls.jsonl"
        for name in PROGRAMS:
            self.add(name)

    def add(self, name: str, code: str = "") -> None:
        """A program; its Python `code` finds its words in `words`, and how often it was called before in `before`."""
        script = (
            f"#!{sys.executable} -S\n"
            "import json, os, signal, sys, time\n"
            "from pathlib import Path\n"
            f"record, words = Path({str(self._record)!r}), sys.argv[1:]\n"
            "calls = record.read_text().splitlines() if record.exists() else []\n"
            f"before = sum(json.loads(call)[0] == {name!r} for call in calls)\n"
            "with record.open('a') as file:\n"
            f"    file.write(json.dumps([{name!r}, *words]) + chr(10))\n"
            f"{code}\n"
        )
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)

    def calls(self, name: str) -> list[list[str]]:
        """The words of each call of a program."""
        return [call[1:] for call in self.all_calls() if call[0] == name]

    def all_calls(self) -> list[list[str]]:
        """Each call: name and words."""
        return [json.loads(line) for line in self._record.read_text().splitlines()] if self._record.exists() else []

    def add_flair_jax(self, code: str) -> Path:
        """A virtual environment, for the setting VENV, whose flair-jax runs `code`."""
        self.add("flair-jax", code)
        python = self.bin / "python"
        if not python.exists():
            python.symlink_to(sys.executable)
        return self.bin.parent


@contextlib.contextmanager
def started(
    name: str, *arguments: object, programs: Programs | None = None, **environment: str
) -> Iterator[subprocess.Popen]:
    """Starts launch/NAME; what a failing test leaves running is ended."""
    path = os.environ["PATH"] if programs is None else f"{programs.bin}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [REPOSITORY / "launch" / name, *map(str, arguments)],
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def launch(name: str, *arguments: object, programs: Programs | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of launch/NAME."""
    with started(name, *arguments, programs=programs, **environment) as process:
        out, err = process.communicate()
    return process.returncode, out, err
