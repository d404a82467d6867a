"""A small process beside each of a run's processes: it outlives its own, and tells the others how that has ended.

`flair_jax.parallel.peers` starts it, with its options as the first line of input. Those of all processes hold a
connection to that of process 0, the hub, so a process that dies is known at once, and a machine that vanishes after
`dead_after` seconds of silence. What compiled code writes to stderr passes through here, a second late: of a process
that ends because another has, it is a page of C++ frames, in place of which one sentence is printed. Imports the
standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from pathlib import Path
from typing import Any

HOLD = 1.0  # seconds for which lines on stderr are kept back
TO_HEAR = 1.5  # seconds in which the cause becomes known, if another process's death was the cause of a crash
TO_END = 10.0  # seconds for a process to end after another has, before it is killed
TO_FOLLOW = 8.0  # seconds for which process 0, with JAX's coordinator in it, waits for the others to end

Report = dict[str, Any]  # process, host, how (words, after the name), status and told (it has given the reason itself)


def sentence(report: Report) -> str:
    """What is printed where another process has ended."""
    coordinates = ", which coordinates the others," if report["process"] == 0 else ""
    return (
        f"process {report['process']} on {report['host']}{coordinates} {report['how']}; this process cannot go on "
        "without it. Once the cause is mended, the same command resumes"
    )


class Link:
    """A connection that carries JSON objects, one a line; {} is a sign of life."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes over a connection."""
        connection.setblocking(False)
        self.connection, self.heard = connection, time.monotonic()
        self.report: Report = {}  # of the process at the other end, once it has said which it is
        self._partial = b""

    def receive(self) -> list[dict[str, Any]] | None:
        """The objects that have arrived; None once the other end is gone."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.heard = time.monotonic()
        *lines, self._partial = (self._partial + data).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:  # a stranger
            return None

    def send(self, value: dict[str, Any]) -> None:
        """Sends an object; if the other end is gone, `receive` says so."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(value).encode() + b"\n")


class Watchman:
    """Watches one process, and the others through the hub."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Takes what `peers.watch` gives: numbers, file descriptors, the hub's address and token."""
        self.options, self.selector = options, selectors.DefaultSelector()
        self.pid, self.host = int(options["pid"]), socket.gethostname()
        self.links: list[Link] = []
        self.news: Report | None = None  # the first of the others that has ended without being done
        self.kill_at = float("inf")
        self.farewell: dict[str, Any] | None = None
        self.held: list[tuple[float, bytes]] = []  # what came on stderr, and when
        self.alive, self._partial = True, b""
        self._out_of_memory = _out_of_memory()
        os.set_blocking(options["stderr"], False)
        self.selector.register(0, selectors.EVENT_READ, self._hear_process)
        self.selector.register(options["stderr"], selectors.EVENT_READ, self._hold)
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):  # children of the process may keep its pipe open
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(self.pid)
                self.selector.register(self._pidfd, selectors.EVENT_READ, self._process_ended)
        if options["process"] == 0:
            self._listener = socket.socket(fileno=options["listener"])
            self.selector.register(self._listener, selectors.EVENT_READ, self._accept)
        else:
            self._connect()

    def _connect(self) -> None:
        host, port = self.options["hub"]
        try:
            link = self._add(socket.create_connection((host, port), timeout=self.options["dead_after"]))
        except OSError as error:
            self._write(
                f"process 0 cannot be reached at {host}:{port} ({error}); that it dies is noticed after 100 seconds\n"
            )
            return
        link.report = {"process": 0, "host": self.options["hub_host"], "status": None, "told": False}
        link.send({"process": self.options["process"], "host": self.host, "token": self.options["token"]})

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            self._add(self._listener.accept()[0])

    def _add(self, connection: socket.socket) -> Link:
        link = Link(connection)
        self.links.append(link)
        self.selector.register(connection, selectors.EVENT_READ, lambda: self._hear(link))
        return link

    def _hear(self, link: Link) -> None:
        messages = link.receive()
        for message in messages or []:
            if not link.report and message:
                if not isinstance(message, dict) or message.get("token") != self.options["token"]:
                    messages = None
                    break
                link.report = {**message, "status": None, "told": False}
                if self.news:
                    link.send({"dead": self.news})
            elif "dead" in message:
                self._learn(message["dead"])
            elif "done" in message:
                link.report["done"] = True
        if messages is None:
            self._lose(link, "has ended without a word: its machine or container is gone")

    def _lose(self, link: Link, how: str) -> None:
        self.selector.unregister(link.connection)
        link.connection.close()
        self.links.remove(link)
        if link.report and not link.report.get("done"):
            self._learn({**link.report, "how": how})

    def _learn(self, report: Report) -> None:
        """Another process has ended without being done: this one cannot go on."""
        if self.options["process"] == 0:
            for link in self.links:
                if link.report.get("process") == report["process"]:
                    link.report["done"] = True  # its end is known
                else:
                    link.send({"dead": report})
        if self.news or self._failed() or report["process"] == self.options["process"]:
            return
        self.news = report
        self.kill_at = time.monotonic() + TO_END
        self._tell_process({"dead": sentence(report), "status": report["status"], "told": report["told"]})

    def _beat(self) -> None:
        """Signs of life, and those that are missing."""
        for link in list(self.links):
            link.send({})
            silent = time.monotonic() - link.heard
            if silent > self.options["dead_after"]:
                self._lose(link, f"has given no sign of life for {silent:.0f} seconds: its machine or network is gone")

    def _tell_process(self, value: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(value).encode() + b"\n")

    def _hear_process(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self.selector.unregister(0)
            self._process_ended()
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self.farewell = json.loads(line)
            if not self.farewell["done"]:
                self._announce({"how": self.farewell["how"], "status": self.farewell["status"], "told": True})
                if self.options["process"] != 0:
                    self._tell_process({"go": True})

    def _failed(self) -> bool:
        """Whether the process has said that it fails."""
        return self.farewell is not None and not self.farewell["done"]

    def _announce(self, report: Report) -> None:
        """Tells the others that this process has ended without being done."""
        report = {"process": self.options["process"], "host": self.host, **report}
        if self.options["process"] == 0:
            self._learn(report)
        else:
            for link in self.links:
                link.send({"dead": report})

    def _process_ended(self) -> None:
        if self.alive and self._pidfd >= 0:
            self.selector.unregister(self._pidfd)
        self.alive = False

    def _hold(self) -> bool:
        """Keeps back what has come on stderr; whether there was anything."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(self.options["stderr"], 1 << 16):
                self.held.append((time.monotonic(), data))
                return True
            with contextlib.suppress(KeyError):
                self.selector.unregister(self.options["stderr"])
        return False

    def _pass_on(self, until: float) -> None:
        while self.held and self.held[0][0] <= until:
            with contextlib.suppress(OSError):
                os.write(2, self.held.pop(0)[1])

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"\nflair-jax: {text}".encode())

    def run(self) -> None:
        """Watches until the process has ended, and says what has to be said."""
        next_beat = 0.0
        while self.alive:
            self._step(0.25)
            now = time.monotonic()
            if not self.news:
                self._pass_on(now - HOLD)
            if now >= next_beat:
                self._beat()
                next_beat = now + self.options["dead_after"] / 5
            if self._failed() and self.options["process"] == 0 and not any(link.report for link in self.links):
                self._tell_process({"go": True})
            if now >= self.kill_at:
                with contextlib.suppress(OSError):
                    os.kill(self.pid, signal.SIGKILL)
        self._end()

    def _end(self) -> None:
        """The process has ended: says so to the others, and why on stderr if it could not."""
        farewell, first = self.farewell, self.options["process"] == 0
        if farewell is None and not self.news:  # killed; or crashed, since another was
            self._wait_for_news(0 if first else TO_HEAR)
            how = _how_ended(self.pid, self._out_of_memory)
            self._announce({"how": how, "status": None, "told": False})
        elif farewell and farewell["done"]:
            for link in self.links:
                link.send({"done": True})
        while self._hold():
            pass
        if self.news is None or self.options["all_of_stderr"]:
            self._pass_on(time.monotonic())
        if self.news is not None and farewell is None:
            self._write(f"error: {sentence(self.news)}\n")
        deadline = time.monotonic() + TO_FOLLOW
        while first and time.monotonic() < deadline and any(link.report for link in self.links):
            self._step(0.25)

    def _wait_for_news(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.news and time.monotonic() < deadline and any(link.report for link in self.links):
            self._step(0.1)

    def _step(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            key.data()


def _out_of_memory() -> int:
    """How many processes of this control group the kernel has killed for want of memory."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/sys/fs/cgroup/memory.events").read_text().split("oom_kill ")[1].split()[0])
    return 0


def _how_ended(pid: int, out_of_memory_before: int) -> str:
    """In words, as far as it is known: of a process that nobody waited for yet, the system tells the signal."""
    how = "was killed, or crashed"
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        code = int(fields[-1])
        if fields[0] == "Z" and code & 0x7F:
            how = f"was ended by {signal.Signals(code & 0x7F).name}"
        elif fields[0] == "Z" and code >> 8:
            how = f"has ended with status {code >> 8}"
    if _out_of_memory() > out_of_memory_before:
        how += " (its machine or container had no memory left, and the kernel killed a process)"
    return how


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # schedulers send them to all processes
        signal.signal(number, signal.SIG_IGN)
    with os.fdopen(0, "rb", buffering=0, closefd=False) as file:  # a buffer would keep what follows
        first_line = file.readline()
    if first_line:
        Watchman(json.loads(first_line)).run()
