"""That the processes of a run learn of each other's end: when one dies, the others say which, and end as well.

JAX notices a dead process after 100 seconds by default and then aborts the others with C++ frames; a process that fails
by itself waits for the others five minutes long. A `watchman` beside each process knows sooner and in words.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from flair_jax import console, interrupts
from flair_jax.errors import ConfigError, FlairError, PeerError

# Seconds without a sign of life after which a process counts as dead: its machine or network has gone. A process that
# dies on a machine that goes on is known at once.
DEAD_AFTER = "FLAIR_JAX_DEAD_AFTER"
DEAD_AFTER_SECONDS = 20.0

_ALL_OF_STDERR = "FLAIR_JAX_TRACEBACK"
_KEY = "flair_jax/peers"
_TO_SAY_WHY = 5.0  # seconds for a process to end by itself, with words of its own, after another has
_TO_HEAR = 2.0  # seconds after a failure in which news arrive of another process, whose end was the cause
_COMMUNICATION = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service", "arrier")


@dataclasses.dataclass
class _Watch:
    """Of a process that shares a run."""

    watchman: subprocess.Popen[bytes]
    stderr: IO[str]  # the real one; what compiled code writes passes through the watchman
    dead_after: float
    arrived: threading.Event = dataclasses.field(default_factory=threading.Event)  # of news
    may_go: threading.Event = dataclasses.field(default_factory=threading.Event)
    news: dict[str, Any] | None = None
    ending = False
    failed_with: int | None = None  # exit status

    def stopped(self, status: int, sentence: str) -> None:
        """Tells the others that a signal ends this process."""
        words = sentence.partition(";")[0]  # what follows is for whoever reads this process's words
        self.tell(done=False, how=f"has ended with status {status} ({words})", status=status)

    def tell(self, **message: Any) -> None:
        """Tells the watchman something."""
        with contextlib.suppress(OSError, ValueError):
            assert self.watchman.stdin is not None  # noqa: S101 - for mypy
            self.watchman.stdin.write(json.dumps(message).encode() + b"\n")
            self.watchman.stdin.flush()


_watch: _Watch | None = None


def dead_after() -> float:
    """The seconds of silence after which a process counts as dead.

    Raises:
      ConfigError: if the environment variable that sets it is no number of seconds.
    """
    text = os.environ.get(DEAD_AFTER, "")
    try:
        seconds = float(text or DEAD_AFTER_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 90:  # JAX's own limit is 100
        raise ConfigError(f"{DEAD_AFTER}={text}: expected seconds from 1 to 90")
    return seconds


def watch() -> None:
    """Starts to watch the other processes of this run, if there are any, until this one ends. Call once, when JAX has
    connected them.

    Raises:
      ConfigError: as `dead_after`.
    """
    global _watch
    from jax._src.distributed import global_state

    if global_state.num_processes == 1 or global_state.client is None or _watch is not None:
        return
    seconds = dead_after()
    options: dict[str, Any] = {"process": global_state.process_id, "pid": os.getpid(), "dead_after": seconds}
    options["all_of_stderr"] = bool(os.environ.get(_ALL_OF_STDERR))
    passed = []
    if global_state.process_id == 0:
        listener = _listen()
        options |= {"listener": listener.fileno(), "token": secrets.token_hex(16)}
        meeting = {"port": listener.getsockname()[1], "token": options["token"], "host": socket.gethostname()}
        global_state.client.key_value_set(_KEY, json.dumps(meeting))
        passed.append(listener.fileno())
    else:
        meeting = json.loads(global_state.client.blocking_key_value_get(_KEY, 100_000))
        host = str(global_state.coordinator_address).rpartition(":")[0].strip("[]")
        options |= {"hub": [host, meeting["port"]], "hub_host": meeting["host"], "token": meeting["token"]}
    _watch = _start(options, passed, seconds)
    if global_state.process_id == 0:
        listener.close()
    threading.Thread(target=_listen_to_watchman, args=(_watch,), name="peers", daemon=True).start()
    interrupts.tell_at_end(_watch.stopped)
    atexit.register(_end, _watch)  # before JAX's own end, which waits for the others


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _start(options: dict[str, Any], passed: list[int], seconds: float) -> _Watch:
    """Starts the watchman, and lets what compiled code writes to stderr pass through it."""
    sys.stderr.flush()
    real = os.dup(2)
    reading, writing = os.pipe()
    program = Path(__file__).with_name("watchman.py")
    watchman = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-I", "-S", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(reading, *passed),
        start_new_session=True,  # launchers end whatever is left of a process's group, and terminals send it Ctrl-C
    )
    os.close(reading)
    os.dup2(writing, 2)
    os.close(writing)
    stderr = sys.stderr
    try:
        on_two = stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):  # redirected by the program that calls
        on_two = False
    own = open(real, "w", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - for good
    if on_two:
        sys.stderr = own
    watch = _Watch(watchman, own, seconds)
    watch.tell(**options, stderr=reading)
    return watch


def _listen_to_watchman(watch: _Watch) -> None:
    """Ends this process after another has, unless it does by itself."""
    assert watch.watchman.stdout is not None  # noqa: S101 - for mypy
    for line in watch.watchman.stdout:
        message = json.loads(line)
        if "go" in message:
            watch.may_go.set()
        if "dead" not in message or watch.arrived.is_set():
            continue
        watch.news = message
        watch.arrived.set()
        threading.Thread(target=_end_for_news, args=(watch, message), daemon=True).start()
    watch.may_go.set()


def _end_for_news(watch: _Watch, news: dict[str, Any]) -> None:
    time.sleep(_TO_SAY_WHY)
    if watch.ending:
        return
    with contextlib.suppress(OSError):
        os.write(watch.stderr.fileno(), f"\nflair-jax: error: {news['dead']}\n".encode())
    watch.tell(done=False, how="has ended since another had", status=None)
    os._exit(news["status"] or PeerError.status)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around the work of a process that shares a run: tells the others how it ends if it fails, and if it fails because
    another has ended, says which.

    Raises:
      PeerError: in place of what the end of another process has caused.
    """
    watch = _watch
    if watch is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        told = isinstance(error, FlairError)
        lost = not told and any(word in str(error) for word in _COMMUNICATION)
        if isinstance(error, Exception):
            watch.arrived.wait(watch.dead_after + _TO_HEAR if lost else _TO_HEAR)
        watch.ending = True
        if watch.news is not None and not (told and watch.news["told"]) and isinstance(error, Exception):
            error = PeerError(watch.news["dead"])
            error.status = watch.news["status"] or error.status
            _fail(watch, error.status, "has ended since another had")
            raise error from None
        words = console.in_one_sentence(error)
        status = error.status if isinstance(error, FlairError) else 2 if words else 1
        _fail(watch, status, f"has failed ({' '.join((words or _first_line(error)).split())})")
        raise


def _first_line(error: BaseException) -> str:
    """Of a bug's words, of which the process itself prints the traceback."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _fail(watch: _Watch, status: int, how: str) -> None:
    watch.failed_with = status
    watch.tell(done=False, how=how, status=status)


def _end(watch: _Watch) -> None:
    """At the end of this process. Of one that has failed, it omits JAX's own end, which would wait for the others."""
    failure = getattr(sys, "last_value", None)
    if watch.failed_with is None:
        if failure is None:
            watch.tell(done=True)
            return
        _fail(watch, 1, f"has failed ({_first_line(failure)})")
    watch.may_go.wait(8)  # with process 0 ends JAX's coordinator, and whatever still needs it is aborted
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(watch.failed_with or 1)
