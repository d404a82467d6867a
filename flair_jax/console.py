"""Runs a command so that its caller's process stays as it was, and any error is one sentence.

Imports no JAX.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

from flair_jax import interrupts
from flair_jax.errors import FlairError
from flair_jax.refusals import reason_of

# What its modules log is a remark on what is documented, or a warning.
_LOGGER = logging.getLogger("flair_jax")

# Called before a line is logged: each ends a line that was begun on stderr, if it is not complete.
open_lines: list[Callable[[], None]] = []


def run_command(run: Callable[[], int | None]) -> int:
    """Runs a command, and says in one sentence on stderr why it could not.

    Environment variables, signal handlers, logging, warning filters and output streams are restored afterwards, so that
    a program may call commands. What JAX read of them when it was first imported stays.

    Args:
      run: the command; None is an exit status of 0.

    Returns:
      The exit status: the command's; 2 for bad input, a full disk or a device that does not start; 130 if interrupted;
      141 if whatever reads the output stopped reading, as programs do that SIGPIPE ends.
    """
    try:
        with _usable_streams(), _process_kept(), environment_variables(quiet_without_tpu()):
            _log_in_lines()
            status = run() or 0
            sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        _say(interrupts.sentence())
        return interrupts.STATUS
    except (Exception, SystemExit) as error:  # SystemExit: help was printed, or the words were wrong
        if interrupts.interrupted():
            raise
        broken = _end_output(error)
        if isinstance(broken, BrokenPipeError):
            return 141
        sentence = f"standard output: {broken.strerror}" if broken else in_one_sentence(error)
        if sentence is None:
            raise
        _say(f"error: {sentence}")
        return error.status if isinstance(error, FlairError) else 2


def in_one_sentence(error: BaseException) -> str | None:
    """One sentence for an error that a user can fix; None for a bug of the program."""
    if isinstance(error, FlairError):
        return str(error)
    if reason := reason_of(error):
        return f"{next(iter(str(error).strip().splitlines()), type(error).__name__)}: {reason}"
    if isinstance(error, OSError):  # full disk, no permission: the system's own words say what and where
        return _in_the_systems_words(error)
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # by pathlib, below a library
        return "it is not known which folder the home folder is; set HOME (and HF_HOME, for the hub's cache)"
    if isinstance(error, RecursionError) and _raised_in(error).startswith("json."):
        return "a JSON file is nested deeper than can be read"
    words = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words:
        return f"not enough memory ({words or 'none is left'}); a smaller batch needs less"
    if "Unable to initialize backend" in words or _raised_in(error) in ("jax._src.xla_bridge", "jax._src.config"):
        variables = ", ".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name[:4] == "JAX_")
        reason = words.partition(" (set JAX_PLATFORMS=")[0].partition(" (you may need")[0] or "no such device is here"
        return f"JAX cannot start ({reason}); install what drives the device" + (
            f", or correct or unset what the environment sets: {variables}" if variables else ""
        )
    return None


@contextlib.contextmanager
def environment_variables(variables: Mapping[str, str], *, replace: bool = False) -> Iterator[None]:
    """Sets environment variables until the end of the block; variables that are already set, only with `replace`."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if replace or before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def quiet_without_tpu() -> dict[str, str]:
    """Environment variables that keep libtpu quiet where no TPU is attached; {} where one is."""
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        return {}
    # What it would ask the machine for, and complain that it is not told; and no log, which the next user cannot write.
    asked = {"TPU_ACCELERATOR_TYPE": "v5litepod-1", "TPU_WORKER_HOSTNAMES": "localhost"}
    return {**asked, "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}


class _Line(logging.Formatter):
    """Warnings with that word before them; our own remarks like those that commands print."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line, without a traceback."""
        first = "flair-jax" if record.levelno == logging.INFO else record.levelname
        return f"{first}: {record.message}"


class _Lines(logging.StreamHandler[TextIO]):
    """Gives each record a line of its own, above progress bars and below what was begun without an end."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Prints it while no bar is in its way."""
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        # Their lock comes before this handler's, for which whoever has theirs may wait.
        aside = tqdm.external_write_mode(file=sys.stderr) if tqdm else contextlib.nullcontext()
        with contextlib.suppress(OSError, ValueError), aside:  # stderr may be full or closed
            return super().handle(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Prints it."""
        for end_line in list(open_lines):
            end_line()
        super().emit(record)


def _log_in_lines() -> None:
    """Prints on stderr the warnings of all, and the remarks of this package."""
    handler = _Lines()
    handler.setFormatter(_Line())
    handler.addFilter(interrupts.is_no_orphan)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    _LOGGER.setLevel(logging.INFO)
    warnings.showwarning = _log_warning  # `logging.captureWarnings` would outlive the command


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del file, line  # nobody names another file, and the line of code says less than where it is
    logging.getLogger("py.warnings").warning("%s:%d: %s: %s", filename, lineno, category.__name__, message)


@contextlib.contextmanager
def _process_kept() -> Iterator[None]:
    """Restores, at the end of the block, the process-wide settings that commands and their libraries change."""
    variables, root = dict(os.environ), logging.getLogger()
    handlers, level, own_level = root.handlers[:], root.level, _LOGGER.level
    on_main = threading.current_thread() is threading.main_thread()
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if on_main else {}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        root.handlers[:] = handlers
        root.setLevel(level)
        _LOGGER.setLevel(own_level)
        for number, handler in signals.items():
            # None is not Python's; and what C has set under an unchanged one stays, as JAX's preemption service does.
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _usable_streams() -> Iterator[None]:
    """Makes stdout and stderr accept whatever is printed: any text in any encoding, and anything if they are closed."""
    streams = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if None in streams:  # by the shell's >&-
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
            stack.callback(_set_streams, *streams)
        for stream in (sys.stdout, sys.stderr):
            if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
                stack.callback(stream.reconfigure, errors="strict")
        yield


def _set_streams(out: TextIO, err: TextIO) -> None:
    sys.stdout, sys.stderr = out, err


def _end_output(error: BaseException) -> OSError | None:
    """The error with which stdout refused the output, if that ended a command or would end the process."""
    unwritten = _flush(sys.stdout)
    if unwritten is None and isinstance(error, BrokenPipeError):  # of an output that keeps nothing back
        with contextlib.suppress(OSError, ValueError):  # ValueError: stdout is closed, or no file
            poll = select.poll()
            poll.register(sys.stdout, 0)
            return error if poll.poll(0) else None
    return unwritten


def _flush(stream: TextIO | None) -> OSError | None:
    """The error with which a stream refused its output; the rest is then discarded, also at the process's end."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        return error
    return None


def _in_the_systems_words(error: OSError) -> str:
    if error.filename is None and isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the current folder is gone; change to another one"
    if error.filename is None or error.strerror is None:
        return " ".join(str(error).split()) or type(error).__name__
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(names)}: {error.strerror}"


def _raised_in(error: BaseException) -> str:
    """The module whose code raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr can be full or closed too
        print(f"flair-jax: {text}", file=sys.stderr)
    _flush(sys.stderr)
