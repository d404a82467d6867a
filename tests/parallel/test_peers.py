"""Real processes that share a run, one of which ends too early: the others name it in one sentence, and end."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from runs import spawn_all

from flair_jax.errors import ConfigError
from flair_jax.parallel import peers

SCRIPT = Path(__file__).with_name("peers_run.py")
GOES_ON = "; this process cannot go on without it. Once the cause is mended, the same command resumes"


def outcomes(how: str, victim: int) -> tuple[list[tuple[int, str, str]], float]:
    """Status, stdout and stderr of two processes, and the seconds from the end of the victim to that of the other."""
    started = spawn_all(SCRIPT, how, victim, processes=2, devices=1)
    ends = {}
    texts = [("", "")] * 2
    for number in (1 - victim, victim):
        process = started[number]
        if number == victim and how == "frozen":
            line = process.stdout.readline()
            while "watchman" not in line:
                line = process.stdout.readline()
            os.kill(int(line.split()[-1]), signal.SIGKILL)
            process.kill()
        texts[number] = process.communicate(timeout=120)
        ends[number] = time.time()
    stamp = re.search(r"at ([\d.]+);", texts[victim][0] or line)
    found = [(process.returncode, *text) for process, text in zip(started, texts, strict=True)]
    return found, ends[1 - victim] - float(stamp.group(1))


@pytest.mark.parametrize(
    ("how", "victim", "said", "status"),
    [
        # JAX aborts the other at once, too; whichever is first, one sentence is all there is.
        (
            "killed",
            0,
            r"process 0 on \S+, which coordinates the others, was (ended by|killed, or)",
            {1, -signal.SIGABRT},
        ),
        ("bad input", 1, r"process 1 on \S+ has failed \(the disk is full; make room\)", {2}),
        ("frozen", 1, r"process 1 on \S+ has given no sign of life for \d seconds", {1}),
    ],
)
def test_the_other_says_who_has_ended(how: str, victim: int, said: str, status: set[int], monkeypatch) -> None:
    monkeypatch.setenv(peers.DEAD_AFTER, "3")
    found, seconds = outcomes(how, victim)
    other_status, out, err = found[1 - victim]
    assert other_status in status
    assert "finished" not in out
    assert len(err.strip().splitlines()) == 1, err
    assert re.match(rf"flair-jax: error: {said}", err.strip())
    assert err.strip().endswith(GOES_ON)
    assert seconds < 30
    if how == "bad input":
        assert found[victim][0] == 2
        assert found[victim][2] == "flair-jax: error: the disk is full; make room\n"


@pytest.mark.parametrize("text", ["soon", "0", "91", "nan"])
def test_invalid_seconds(text: str, monkeypatch) -> None:
    monkeypatch.setenv(peers.DEAD_AFTER, text)
    with pytest.raises(ConfigError, match=f"FLAIR_JAX_DEAD_AFTER={text}: expected seconds from 1 to 90"):
        peers.dead_after()
