"""The watchmen of processes that only sleep, as programs of their own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from flair_jax.parallel import watchman


class Watched:
    """A process that sleeps, and its watchman."""

    def __init__(self, number: int, listener: socket.socket, token: str = "token", all_of_stderr: bool = False) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])
        self.address = listener.getsockname()[:2]
        reading, self.stderr = os.pipe()
        options = {"process": number, "pid": self.process.pid, "dead_after": 2.0, "token": token, "stderr": reading}
        options |= {"all_of_stderr": all_of_stderr, "hub": self.address, "hub_host": "hub"}
        self.watchman = subprocess.Popen(
            [sys.executable, "-I", "-S", watchman.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(reading, listener.fileno()),
            text=True,
            bufsize=1,
        )
        os.close(reading)
        self.tell(**options, listener=listener.fileno())

    def tell(self, **message: object) -> None:
        self.watchman.stdin.write(json.dumps(message) + "\n")

    def hear(self) -> dict:
        return json.loads(self.watchman.stdout.readline())

    def finish(self) -> str:
        """What the watchman printed, once it has ended."""
        if self.process.poll() is None:
            self.process.kill()
        os.close(self.stderr)
        self.stderr = -1
        self.rest, printed = self.watchman.communicate(timeout=60)
        return printed

    def end(self) -> None:
        for process in (self.process, self.watchman):
            process.kill()
            process.communicate()
        if self.stderr >= 0:
            os.close(self.stderr)


@pytest.fixture
def run() -> Iterator:
    """Gives a function that starts so many processes; process 0 holds the hub."""
    with contextlib.ExitStack() as stack:

        def start(count: int, **options: object) -> list[Watched]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            watched = [Watched(number, listener, **options) for number in range(count)]
            for each in watched:
                stack.callback(each.end)
            time.sleep(0.5)  # until they are connected
            return watched

        yield start


def test_a_killed_process_is_named_to_all_others(run) -> None:
    first, second, third = run(3)
    second.process.kill()
    for other in (first, third):
        news = other.hear()
        assert news["dead"].startswith(f"process 1 on {socket.gethostname()} was ended by SIGKILL; this process cannot")
        assert (news["status"], news["told"]) == (None, False)
    # The others' own ends are consequences: nobody is told anything else. What they wrote to stderr is left out.
    os.write(third.stderr, b"*** Check failure stack trace: ***\n")
    assert third.finish().strip() == f"flair-jax: error: {news['dead']}"
    assert first.finish().count("process 1") == 1
    assert first.rest == third.rest == ""


def test_a_process_that_fails_gives_its_reason(run) -> None:
    first, second = run(2)
    second.tell(done=False, how="has failed (the disk is full)", status=2)
    assert second.hear() == {"go": True}
    news = first.hear()
    assert "process 1 on" in news["dead"]
    assert "has failed (the disk is full); " in news["dead"]
    assert (news["status"], news["told"]) == (2, True)
    assert second.finish() == ""


def test_the_first_that_fails_waits_for_the_others(run) -> None:
    first, second = run(2)
    first.tell(done=False, how="has failed (no)", status=2)
    assert ", which coordinates the others, has failed (no); " in second.hear()["dead"]
    second.tell(done=False, how="has ended since another had", status=None)
    second.finish()
    assert first.hear() == {"go": True}
    assert first.finish() == ""


def test_processes_that_are_done_are_not_missed(run) -> None:
    first, second, third = run(3)
    for each in (third, first):
        each.tell(done=True)
        time.sleep(0.2)
        each.process.kill()
    time.sleep(1)
    second.tell(done=True)
    for each in (second, third, first):
        assert each.finish() == ""
        assert each.rest == ""


def test_the_coordinator_s_machine_vanishes(run) -> None:
    """Its connections stay, and nothing comes through them."""
    first, second = run(2)
    first.watchman.send_signal(signal.SIGSTOP)
    assert "process 0 on hub, which coordinates the others, has given no sign of life for" in second.hear()["dead"]


def test_the_end_of_a_container_with_its_watchman(run) -> None:
    first, second = run(2)
    second.watchman.kill()
    assert "has ended without a word: its machine or container is gone" in first.hear()["dead"]


def test_a_process_that_does_not_end_after_another_is_killed(run) -> None:
    first, second = run(2)
    second.process.kill()
    began = time.monotonic()
    assert first.process.wait(timeout=30) == -signal.SIGKILL
    assert watchman.TO_END - 1 < time.monotonic() - began < 25


@pytest.mark.parametrize("everything", [False, True])
def test_what_compiled_code_writes_is_passed_on(run, everything: bool) -> None:
    first, second = run(2, all_of_stderr=everything)
    os.write(second.stderr, b"a warning\n")
    assert second.watchman.stderr.readline() == "a warning\n"
    first.tell(done=False, how="has failed (no)", status=2)
    second.hear()
    os.write(second.stderr, b"frames\n")
    assert ("frames" in second.finish()) == everything


def test_a_crash_of_its_own_keeps_its_words(run) -> None:
    _, second = run(2)
    os.write(second.stderr, b"frames\n")
    assert second.finish() == "frames\n"


def test_strangers_change_nothing(run) -> None:
    first, second = run(2)
    for words in (b'{"process": 1, "host": "h", "token": "guess"}\n{"dead": {"process": 1}}\n', b"[1]\n", b"GET /\n"):
        with socket.create_connection(first.address) as stranger:
            stranger.sendall(words)
            assert stranger.recv(100).replace(b"{}\n", b"") == b""
    first.tell(done=True)
    second.tell(done=True)
    assert (second.finish(), first.finish()) == ("", "")
    assert first.rest == second.rest == ""
