"""Ctrl-C and SIGTERM in a program that spends minutes in compiled code, where Python cannot answer signals.

Whatever the program is doing, Ctrl-C ends it with one sentence and status 130. Open resources are closed; if that
cannot begin within three seconds, or takes more than thirty, the process ends without it. A second Ctrl-C ends it at
once. Files on disk are consistent at any moment, so nothing is lost. Imports the standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

STATUS = 130  # as shells have it: 128 + SIGINT

_TO_BEGIN, _TO_CLOSE, _TO_TELL = 3.0, 30.0, 3.0  # seconds


class _State:
    """Of the process."""

    ours = False  # `run` has it; elsewhere signals are the caller's affair
    interrupted = False  # Python code has heard of Ctrl-C
    sentence = "interrupted"
    at_sigterm: tuple[int, str] | None = None
    sigterm = False  # it came, and was not passed on yet
    handlers: tuple[Any, int | None] = None, None  # of SIGTERM before: in Python, and its address in C
    farewells: tuple[Callable[[int, str], None], ...] = ()


def run(program: Callable[[], int]) -> int:
    """Runs the whole program of a process, and handles Ctrl-C as above.

    Args:
      program: returns the exit status; that of `run_command`, as a rule.

    Returns:
      The exit status. After Ctrl-C the process ends here: Python's own end waits for threads, and crashes with those
      that are in compiled code.
    """
    try:
        sys.unraisablehook = _filtered(sys.unraisablehook)
        logging.getLogger("asyncio").addFilter(is_no_orphan)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)  # orphans, too
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as in `nohup`
            _install()
        status = program()
        if _State.interrupted:
            _end(STATUS, "" if status == STATUS else _State.sentence)
        if _State.ours:  # all is done, and what follows is Python's own end
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return status
    except BaseException as error:  # after Ctrl-C of any kind, such as an import's that was broken off
        if _State.interrupted or isinstance(error, KeyboardInterrupt):
            _end(STATUS, _State.sentence)
        raise


def is_no_orphan(record: logging.LogRecord) -> bool:
    """A filter for logs: drops those of orphaned tasks, which are an event loop's tracebacks and Python's warnings.

    They are reads and writes of a checkpoint that were under way when another failed, and that failure is reported. The
    garbage collector comes across them at any time later.
    """
    return not any(words in record.getMessage() for words in ("exception was never retrieved", "was never awaited"))


def interrupted() -> bool:
    """Whether Ctrl-C was pressed in a process under `run`; then any failure is due to it."""
    return _State.interrupted


def sentence() -> str:
    """What to print when Ctrl-C ends a command."""
    return _State.sentence


def say(words: str) -> None:
    """Sets what is printed when Ctrl-C ends the process, if it is under `run`."""
    if _State.ours:
        _State.sentence = words


def end_at_sigterm(status: int, sentence: str) -> None:
    """Lets SIGTERM end the process at once, also while it compiles, until `pass_sigterm_on`. No effect without `run`.

    The previous handler is set aside, be it in Python or in C, as that of JAX's preemption service is.
    """
    if not _State.ours:
        return
    in_c = _c_signal(signal.SIGTERM, None)
    _State.handlers = signal.signal(signal.SIGTERM, _note_sigterm), in_c
    _State.at_sigterm = status, sentence


def tell_at_end(farewell: Callable[[int, str], None]) -> None:
    """Adds what is called with the status and the sentence if a signal ends the process.

    A thread calls it, while the main thread may be anywhere, and the process ends after `_TO_TELL` even if it waits.
    """
    _State.farewells += (farewell,)


def tell_no_more(farewell: Callable[[int, str], None]) -> None:
    """Takes back what `tell_at_end` added."""
    _State.farewells = tuple(each for each in _State.farewells if each != farewell)


def pass_sigterm_on() -> None:
    """Restores the handler that `end_at_sigterm` set aside."""
    if _State.at_sigterm is None:
        return
    _State.at_sigterm = None
    in_python, in_c = _State.handlers
    if callable(in_python):
        signal.signal(signal.SIGTERM, in_python)
    else:
        _c_signal(signal.SIGTERM, in_c)
    if _State.sigterm:
        _State.sigterm = False
        os.kill(os.getpid(), signal.SIGTERM)


def _c_signal(number: int, handler: int | None) -> int | None:
    """C's `signal`: sets a signal's handler, None being the default, and returns the previous one.

    Python's `signal` knows only its own handlers.
    """
    function: Any = ctypes.CDLL(None).signal
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    return function(number, handler)


def _note_sigterm(_number: int, _frame: FrameType | None) -> None:
    _State.sigterm = True


def _note_interrupt(_number: int, _frame: FrameType | None) -> None:
    _State.interrupted = True
    raise KeyboardInterrupt


def _install() -> None:
    """Takes over Ctrl-C. A thread learns of signals even while the main thread is in compiled code."""
    signal.signal(signal.SIGINT, _note_interrupt)
    wakeups, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    _State.ours = True
    threading.Thread(target=_watch, args=(wakeups,), name="interrupts", daemon=True).start()


# Reads and writes of a checkpoint that were under way when another failed; that failure is reported.
_ORPHANS = ("Event loop is closed", "Encountered error while reading array index")


def _filtered(hook: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], None]:
    """A filter of errors that Python cannot raise, since they come from destructors and C callbacks."""

    def filtered(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and _State.ours:  # or the program would continue
            _end(STATUS, _State.sentence)
        if not any(word in str(unraisable.exc_value) for word in _ORPHANS):
            hook(unraisable)

    return filtered


def _watch(wakeups: int) -> None:
    """Ends the process if the main thread does not."""
    deadline: float | None = None
    closing = False
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([wakeups], [], [], left)[0]:
            if closing or not _State.interrupted:
                _end(STATUS, _State.sentence)
            closing, deadline = True, time.monotonic() + _TO_CLOSE
            continue
        for number in os.read(wakeups, 64):
            if number == signal.SIGTERM and _State.at_sigterm is not None:
                _end(*_State.at_sigterm)
            if number == signal.SIGINT:
                if deadline is not None:  # the second
                    _end(STATUS, _State.sentence)
                deadline = time.monotonic() + _TO_BEGIN


def _end(status: int, sentence: str) -> NoReturn:
    """Ends the process with a sentence, if any, and none of Python's own end."""
    _try_for(1, _flush)  # the main thread may be in the middle of printing
    for farewell in _State.farewells:
        _try_for(_TO_TELL, farewell, status, sentence)
    if sentence:
        with contextlib.suppress(OSError):
            os.write(2, f"\nflair-jax: {sentence}\n".encode())
    os._exit(status)


def _try_for(seconds: float, work: Callable[..., None], *arguments: object) -> None:
    """Does something, unless it fails or takes longer: it may wait for a disk, or for what the main thread holds."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            work(*arguments)

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
