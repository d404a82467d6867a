"""Worker processes: they end with their parent, leave signals to it, and need nothing of the user's script."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_tars import write_tars
from process_ends import alive, wait_for_end

from flair_jax.data.workers import Worker, parallel, send_result
from flair_jax.errors import DatasetError, WorkerError


def describe(item: int) -> tuple[int, np.ndarray]:
    if item == 3:
        raise DatasetError("three is broken")
    return os.getpid(), np.full((100, 1000), item)


def test_results_come_in_order_from_several_processes() -> None:
    results = list(parallel(describe, [5, 4, 2, 1], processes=2, description="", unit="", progress=False))
    assert [int(array[0, 0]) for _, array in results] == [5, 4, 2, 1]
    assert os.getpid() not in {pid for pid, _ in results}
    wait_for_end(*{pid for pid, _ in results}, seconds=0)


def test_errors_are_those_of_the_function() -> None:
    with pytest.raises(DatasetError, match="three is broken"):
        list(parallel(describe, [3, 4], processes=2, description="", unit="", progress=False))


def answer(channel) -> None:
    send_result(channel, os.getpid())
    time.sleep(60)


def test_signals_are_the_parents_and_a_killed_worker_is_one_sentence() -> None:
    with Worker() as worker:
        worker.send(answer)
        pid = worker.receive()
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            WorkerError, match=f"a worker process, {pid}, has died .signal 9, perhaps for want of memory"
        ):
            worker.receive()


WARNS = """
import logging, sys
from flair_jax.data.workers import parallel
print("a bar", end="", file=sys.stderr, flush=True)
list(parallel(logging.warning, ["one", "two"], processes=2, description="", unit="", progress=False))
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_terminal_a_warning_takes_the_place_of_the_parents_bar(terminal: bool) -> None:
    reading, writing = pty.openpty() if terminal else os.pipe()
    with open(reading, "rb") as reader:
        subprocess.run([sys.executable, "-c", WARNS], stderr=writing, check=True)
        text = os.read(reader.fileno(), 9999).decode()
        os.close(writing)
    assert text.startswith("a bar\r\x1b[KWARNING: " if terminal else "a barWARNING: ")


# No `if __name__ == "__main__"`, and a class of its own.
SCRIPT = """
import os, sys, time
from flair_jax.data.pipeline import SampleSettings, batches
from flair_jax.data.tars import TarSource

class Watched:
    def __init__(self, source, folder):
        self.source, self.folder = source, folder
    def __len__(self):
        return len(self.source)
    def __getitem__(self, index):
        with open(f"{self.folder}/{os.getpid()}.pid", "w"):
            return self.source[index]
    def where(self, index):
        return ""

source = Watched(TarSource("*.tar", sys.argv[1], processes=2, progress=False), sys.argv[1])
settings = SampleSettings(seed=0, image_size=8, context_length=8, captions_per_image=1)
stream = batches([source], settings, 2, workers=2)
print(len(source), next(stream).pixels.shape, next(stream).pixels.shape, flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_script_without_a_guard_and_its_workers_end_with_it(tmp_path: Path) -> None:
    """Killed, or at its end with the stream open, where it says nothing."""
    write_tars(tmp_path, tars=2, samples=4)
    (tmp_path / "script.py").write_text(SCRIPT)
    for seconds, status in ((60, -signal.SIGKILL), (0, 0)):
        script = subprocess.Popen(
            [sys.executable, str(tmp_path / "script.py"), str(tmp_path), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert script.stdout.readline() == "8 (2, 8, 8, 3) (2, 8, 8, 3)\n", script.stderr.read()
        workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
        assert len(workers) == 2
        if seconds:
            assert all(map(alive, workers))
            script.send_signal(signal.SIGKILL)
        assert script.wait(timeout=30) == status
        wait_for_end(*workers)
        assert script.stderr.read() == ""
        for path in tmp_path.glob("*.pid"):
            path.unlink()
