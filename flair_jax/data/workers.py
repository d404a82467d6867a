"""Worker processes: they end when their parent does, however it ends, and leave signals to it. Imports no JAX."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic, TypeVar

import cloudpickle

from flair_jax.errors import ConfigError, WorkerError
from flair_jax.progress import ProgressBar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Not by `multiprocessing`, whose processes outlive a killed parent, die of signals that are meant for it, and run the
# user's script again. Functions and classes of the script are sent by value.
_START = (
    "import socket, sys; channel = socket.socket(fileno=int(sys.argv[1])); "
    "sys.path[:] = sys.argv[3:]; from flair_jax.data.workers import serve; serve(channel, int(sys.argv[2]))"
)


class Worker(Generic[_Result]):
    """A Python process that works for this one; use it as a context manager, whose end kills it."""

    def __init__(self) -> None:
        """Starts it; `send` gives it work."""
        self._channel, theirs = socket.socketpair()
        # What a terminal or a scheduler sends to all processes is the parent's to answer, which needs its workers yet.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _START, str(theirs.fileno()), str(os.getpid()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def __enter__(self) -> Worker[_Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def fileno(self) -> int:
        """The file descriptor that is readable once there is a result."""
        return self._channel.fileno()

    def send(self, value: object) -> None:
        """Sends the work, a function of the channel back, or what that function receives.

        Raises:
          ConfigError: if it cannot be pickled.
        """
        try:
            work = cloudpickle.dumps(value)
        except Exception as error:  # whatever an object raises that cannot be copied
            raise ConfigError(
                f"worker processes cannot be sent what they work with ({error}); make it picklable, or use none: "
                "config.data.workers=0"
            ) from error
        with contextlib.suppress(ConnectionError):  # it has died, which `receive` tells
            _send(self._channel, work)

    def receive(self) -> _Result:
        """Its next result.

        Raises:
          WorkerError: if it has died.
          Exception: the one that it raised.
        """
        try:
            failed, value = _receive(self._channel)
        except (EOFError, ConnectionError):
            status = self._process.wait()
            how = f"signal {-status}, perhaps for want of memory" if status < 0 else f"exit status {status}"
            raise WorkerError(
                f"a worker process, {self._process.pid}, has died ({how}); start again, with fewer workers if memory "
                "is short"
            ) from None
        if failed:
            raise value
        return value


def serve(channel: socket.socket, parent: int) -> None:
    """What a worker runs: the function that it is sent, with the channel to its parent."""
    threading.Thread(target=_end_with_parent, args=(channel, parent), daemon=True).start()
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    clear = "\r\x1b[K" if on_terminal else ""  # of the parent's progress bar, which it shows again
    logging.basicConfig(level=logging.WARNING, format=f"{clear}%(levelname)s: %(message)s")
    try:
        work = pickle.loads(_receive(channel))  # noqa: S301  # from the parent
        work(channel)
    except (EOFError, ConnectionError):  # the parent needs no more
        pass
    except Exception as error:
        _send_failure(channel, error)
    os._exit(0)


def send_result(channel: socket.socket, result: object) -> None:
    """Sends a result for `Worker.receive`; arrays are sent without a copy, and arrive writable."""
    _send(channel, (False, result))


def _send_failure(channel: socket.socket, error: Exception) -> None:
    error.add_note("In a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        error = RuntimeError("".join(traceback.format_exception(error)))
    _send(channel, (True, error))


def _end_with_parent(channel: socket.socket, parent: int) -> None:
    """The system closes the other end for a parent that is killed, unless a fork of it has that end, too."""
    poller = select.poll()
    poller.register(channel, 0)
    while not poller.poll(1000) and os.getppid() == parent:
        pass
    os._exit(1)


def _send(channel: socket.socket, value: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    channel.sendall(struct.pack(f"<{1 + len(parts)}Q", len(parts), *map(len, parts)))
    for part in parts:
        channel.sendall(part)


def _receive(channel: socket.socket) -> Any:
    (count,) = struct.unpack("<Q", _read(channel, 8))
    head, *buffers = (_read(channel, size) for size in struct.unpack(f"<{count}Q", _read(channel, 8 * count)))
    return pickle.loads(head, buffers=buffers)  # noqa: S301  # from a process of ours


def _read(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = channel.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data


def parallel(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    processes: int = 0,
    description: str,
    unit: str,
    size: Callable[[_Item], int] = lambda item: 1,
    progress: bool = True,
) -> Iterator[_Result]:
    """`function` of each item, in order, in processes of their own, with a progress bar.

    `size` is how many units an item stands for.

    Raises:
      WorkerError: if one of them dies.
    """
    count = min(processes or os.cpu_count() or 1, len(items))
    with ProgressBar(total=sum(map(size, items)), description=description, unit=unit, shown=progress) as bar:
        results = map(function, items) if count <= 1 else _in_processes(function, items, count)
        for item, result in zip(items, results, strict=True):
            yield result
            bar.update(size(item))


def _in_processes(function: Callable[[_Item], _Result], items: Sequence[_Item], count: int) -> Iterator[_Result]:
    with contextlib.ExitStack() as stack:
        idle: list[Worker[_Result]] = [stack.enter_context(Worker()) for _ in range(count)]
        for worker in idle:
            worker.send(functools.partial(_apply, function))
        busy: dict[Worker[_Result], int] = {}
        done: dict[int, _Result] = {}
        sent = 0
        for number in range(len(items)):
            while number not in done:
                while idle and sent < len(items):
                    worker = idle.pop()
                    worker.send(items[sent])
                    busy[worker] = sent
                    sent += 1
                for worker in wait(list(busy)):  # type: ignore[arg-type, assignment]
                    done[busy.pop(worker)] = worker.receive()
                    idle.append(worker)
            yield done.pop(number)


def _apply(function: Callable[[Any], object], channel: socket.socket) -> None:
    while True:
        send_result(channel, function(pickle.loads(_receive(channel))))  # noqa: S301  # from the parent
