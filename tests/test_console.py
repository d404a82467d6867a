"""What surrounds a command: whose environment it is, and what is said of what goes wrong."""

import errno
import json
import logging
import os
import pwd
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from made_tars import sample, write_tar

from flair_jax import cli
from flair_jax.console import environment_variables, in_one_sentence, quiet_without_tpu, run_command
from flair_jax.errors import ConfigError
from flair_jax.files import expand

CHEAP = {
    "convert": ["convert", "gone.safetensors", "x"],
    "export": ["export", "gone", "x"],
    "evaluate": ["evaluate", "--checkpoint", "gone", "--dataset", "coco", "--data-dir", "."],
    "attend": ["attend", "gone.png", "a cat", "--checkpoint", "gone", "--output", "x"],
    "index": ["index", ".", "--checkpoint", "gone", "--output", "x"],
    "search": ["search", "gone", "a cat"],
    "embed": ["embed", ".", "--checkpoint", "gone", "--output", "x.npz"],
    "train": ["train", "--config=demo", "--config.data.dir=gone", "--config.mesh.data=8", "--workdir=w"],
    "configs": ["configs", "gone"],
    "status": ["status", "gone"],
    "plan": ["plan", "--config=demo", "--topology=v5e:1x1", "--config.mesh.data=3"],
    "data": ["data", "index", "gone.tar"],
    "demo": ["demo", "--output", "file"],
    "demo-app": ["demo-app", "--checkpoint", "gone"],
}


def surroundings() -> dict:
    """What a command could change of the process."""
    umask = os.umask(0)
    os.umask(umask)
    root = logging.getLogger()
    return {
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)],
        "logging": (root.level, root.handlers[:]),
        "hooks": (sys.unraisablehook, sys.excepthook, threading.excepthook),
        "streams": (sys.stdout, sys.stderr, sys.stdout.errors, sys.stderr.errors),
        "warnings": warnings.filters[:],
        "numpy": np.geterr(),
        "jax": dict(jax.config.values),
        "flags": {"config", "workdir"} & set(flags.FLAGS),
        "path": sys.path[:],
        "folder": os.getcwd(),
        "umask": umask,
    }


def test_every_command_is_here() -> None:
    assert [name.replace("-", "_") for name in CHEAP] == [
        command.__name__.rpartition(".")[2] for command in cli._commands()
    ]


@pytest.mark.parametrize("words", CHEAP.values(), ids=CHEAP)
def test_commands_leave_their_callers_process_alone(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    before = surroundings()
    assert cli.main(words) == 2
    assert surroundings() == before
    error = capsys.readouterr().err
    assert "flair-jax: error: " in error
    assert "Traceback" not in error


def test_what_a_command_sets_is_put_back(capsys) -> None:
    """Whatever it sets, and whether it ends well or not."""

    def run() -> None:
        os.environ.update(PATH="/nowhere", FLAIR_NEW="1")
        del os.environ["XLA_FLAGS"]
        logging.basicConfig(level=1, force=True)
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("flair_jax").setLevel(1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        warnings.simplefilter("ignore")
        raise KeyboardInterrupt

    before = surroundings()
    assert run_command(run) == 130
    assert surroundings() == before
    assert capsys.readouterr().err == "flair-jax: interrupted\n"


def test_variables_that_are_set_stay_unless_replaced(monkeypatch) -> None:
    monkeypatch.setenv("FLAIR_OLD", "old")
    with environment_variables({"FLAIR_OLD": "new", "FLAIR_NEW": "new"}):
        assert (os.environ["FLAIR_OLD"], os.environ["FLAIR_NEW"]) == ("old", "new")
    with environment_variables({"FLAIR_OLD": "new"}, replace=True):
        assert os.environ["FLAIR_OLD"] == "new"
    assert os.environ["FLAIR_OLD"] == "old"
    assert "FLAIR_NEW" not in os.environ


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: No space left on device"),
        (OSError("the connection\nbroke"), "the connection broke"),
        (MemoryError(), "not enough memory (none is left); a smaller batch needs less"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"), "not enough memory (RESOURCE_EXHAUSTED: Out"),
        (RuntimeError("Could not determine home directory."), "set HOME"),
        (RuntimeError("Unable to initialize backend 'x': no. (set JAX_PLATFORMS='' to go on)"), "'x': no.); install"),
        (RuntimeError("a mistake"), None),
        (AssertionError(), None),
    ],
)
def test_what_is_explained(error: Exception, sentence: str | None) -> None:
    assert (in_one_sentence(error) is None) == (sentence is None)
    assert (sentence or "") in (in_one_sentence(error) or "")


@pytest.fixture
def no_home(monkeypatch) -> None:
    """As for a user that only has a number."""

    def unknown(_: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_without_a_home_folder(no_home, tmp_path, monkeypatch, capsys) -> None:
    """All works that does not need it, also where the defaults do; the rest is one sentence."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="~/x: it is not known which folder ~ is; set HOME, or write it out"):
        expand("~/x")
    assert expand("x") == Path("x")
    write_tar(tmp_path / "a.tar", sample(0))
    assert cli.main(["data", "index", str(tmp_path / "a.tar")]) == 0
    assert cli.main(["data", "stats", "a.tar"]) == 0
    for words in (
        ["data", "stats", "scenes"],
        ["evaluate", "--checkpoint", "~/c", "--dataset", "coco", "--data-dir", "."],
        ["train", "--config=demo", "--workdir=~/w"],
    ):
        capsys.readouterr()
        assert cli.main(words) == 2
        assert "it is not known which folder ~ is; set HOME" in capsys.readouterr().err
    assert cli.main(["demo", "--output=~/d"]) == 2
    assert "argument --output: ~/d: it is not known which folder ~ is" in capsys.readouterr().err
    assert not (tmp_path / "~").exists()


def test_json_that_is_nested_too_deeply() -> None:
    assert run_command(lambda: json.loads("[" * 100_000)) == 2


def python(code: str, *, shell: str = '"$0" -c "$1"', **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Runs Python code as a command in a process of its own, by a line of the shell."""
    script = f"import sys; from flair_jax.console import run_command\ndef run():\n {code}\nsys.exit(run_command(run))"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "TPU_"))}
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell}", sys.executable, script],
        env={**inherited, "PYTHONUNBUFFERED": "", **variables},
        capture_output=True,
        check=False,
    )


def test_a_remark_is_a_plain_line_and_no_warning() -> None:
    outcome = python(
        "import logging; logging.getLogger('flair_jax.a').info('b'); logging.info('c'); logging.warning('d')"
    )
    assert (outcome.returncode, outcome.stderr) == (0, b"flair-jax: b\nWARNING: d\n")


def test_a_warning_of_python_is_a_line_above_the_bar() -> None:
    outcome = python(
        "import tqdm, warnings\n with tqdm.tqdm(total=2, mininterval=0) as bar:"
        " bar.update(); warnings.warn('two\\nlines'); bar.update()"
    )
    assert (outcome.returncode, outcome.stdout) == (0, b"")
    assert b"\rWARNING: <string>:4: UserWarning: two\nlines\n" in outcome.stderr


def test_orphans_of_a_read_that_failed_say_nothing() -> None:
    """Not in the commands that another program calls, either."""
    read = "import asyncio\n async def fail(): 1 / 0\n async def read(): asyncio.ensure_future(fail()); fail(); "
    outcome = python(read + "await asyncio.sleep(0)\n asyncio.run(read())")
    assert (outcome.returncode, outcome.stderr) == (0, b"")


DEVICES = "import jax; print(jax.devices())"


def test_no_word_of_libtpu_where_there_is_no_tpu() -> None:
    assert quiet_without_tpu(), "this machine has a TPU"
    outcome = python(DEVICES)
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert b"CpuDevice" in outcome.stdout


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX cannot start (no such device is here); install what drives the device, or"),
        # Whether or not another process compiles for TPUs at the moment.
        ({"JAX_PLATFORMS": "tpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}, "No jellyfish device found"),
        ({"JAX_NUM_CPU_DEVICES": "many"}, "unset what the environment sets: JAX_NUM_CPU_DEVICES=many"),
    ],
)
def test_a_device_that_does_not_start_is_one_sentence(variables: dict[str, str], message: str) -> None:
    outcome = python(DEVICES, **variables)
    assert outcome.returncode == 2
    assert message in outcome.stderr.decode()
    assert outcome.stderr.count(b"\n") == 1, outcome.stderr.decode()


@pytest.mark.parametrize(
    ("shell", "status", "error"),
    [
        ('"$0" -c "$1" | true', 141, b""),
        ('PYTHONUNBUFFERED=1 "$0" -c "$1" | true', 141, b""),
        ('"$0" -c "$1" >/dev/full', 2, b"flair-jax: error: standard output: No space left on device\n"),
        ('"$0" -c "$1" >/dev/full 2>/dev/full', 2, b""),
        ('"$0" -c "$1" >&-', 0, b""),
        ('"$0" -c "$1" >&- 2>&-', 0, b""),
        ('PYTHONIOENCODING=ascii "$0" -c "$1"', 0, b""),
    ],
)
def test_streams_that_take_nothing(shell: str, status: int, error: bytes, tmp_path) -> None:
    outcome = python(
        r"import time; time.sleep(0.1); print('caf\xe9 \udcff')",
        shell=f"cd {tmp_path}; {shell}",
    )
    assert (outcome.returncode, outcome.stderr) == (status, error)
    if "PYTHONIOENCODING" in shell:
        assert outcome.stdout == rb"caf\xe9 \udcff" + b"\n"


def test_a_folder_that_is_gone_is_one_sentence(tmp_path) -> None:
    shell = f'mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; "$0" -c "$1"'
    outcome = python("import os; os.path.abspath('x')", shell=shell)
    assert (outcome.returncode, outcome.stderr.count(b"\n")) == (2, 1)
    assert b"the current folder is gone; change to another one" in outcome.stderr


def test_the_process_of_the_script_is_its_own(monkeypatch, capsys) -> None:
    """Ctrl-C and what Python cannot raise are then answered for good; see test_interrupts.py."""
    alone = []
    monkeypatch.setattr(cli.interrupts, "run", lambda program: alone.append(program) or program())
    monkeypatch.setattr(sys, "argv", ["flair-jax", "search", "gone", "a cat"])
    assert cli.main() == 2
    assert len(alone) == 1
    assert "gone" in capsys.readouterr().err
