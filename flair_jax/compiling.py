"""Says on stderr what JAX compiles while a command would seem to stand still, and how long it took."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
from tqdm import tqdm

from flair_jax.console import open_lines

_LEAST = 1.0  # seconds; what takes less is not worth a line

# JAX's own names of these events.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE, _NOT_IN_CACHE = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"


def on_devices(count: int) -> str:
    """Words to add to a program that runs on so many devices."""
    return f" on {count} devices" if count > 1 else ""


class FirstCalls:
    """Jitted functions of one object, of which each is compiled at its first call with arrays of other shapes."""

    def __init__(self, devices: int) -> None:
        """Takes the number of devices, which is named."""
        self._devices = devices
        self._known: set[tuple[Any, ...]] = set()

    def compiling(self, program: str, *arrays: jax.Array) -> AbstractContextManager[None]:
        """`compiling` around a program's first call with arrays [...] of these shapes, and nothing around others."""
        key = program, *(array.shape for array in arrays)
        if key in self._known:
            return contextlib.nullcontext()
        self._known.add(key)
        return compiling(program + on_devices(self._devices))


@contextlib.contextmanager
def compiling(program: str) -> Iterator[None]:
    """Around the first call of a jitted function: one line, unless it is compiled in less than a second.

        flair-jax: compiling the training step for 8 devices ... done in 41 s

    The end of the line says if the program was kept from before (`config.compilation_cache`). Of several processes the
    first speaks. Progress bars stand still meanwhile.

    Args:
      program: what is compiled, in words.
    """
    if jax.process_index() > 0:
        yield
        return
    line = _Line(f"flair-jax: compiling {program} ...")
    with tqdm.external_write_mode(file=sys.stderr), line:
        yield


class _Line:
    """The line: begun by a timer, ended by what JAX reports of the thread that made it."""

    def __init__(self, words: str) -> None:
        self._words, self._begun = words, False
        self._thread, self._start = threading.get_ident(), time.monotonic()
        self._seconds, self._kept, self._anew = -1.0, 0, 0  # nothing is compiled yet
        self._lock = threading.Lock()
        self._timer = threading.Timer(_LEAST, self._begin)
        self._timer.daemon = True

    def __enter__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        jax.monitoring.register_event_listener(self._hear)
        open_lines.append(self._break)
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        open_lines.remove(self._break)
        jax.monitoring.unregister_event_duration_listener(self._hear)
        jax.monitoring.unregister_event_listener(self._hear)
        with self._lock:  # the timer may be at it
            if kind is None and self._seconds >= _LEAST:
                kept = ", kept from before" if self._kept and not self._anew else ""
                self._write(f"{'' if self._begun else self._words} done in {self._seconds:,.0f} s{kept}\n")
            elif self._begun:
                self._write("\n")

    def _begin(self) -> None:
        with self._lock:
            self._begun = True
            self._write(self._words)

    def _break(self) -> None:
        """Ends the line for another that comes between; it is written again with its end."""
        with self._lock:
            if self._begun:
                self._begun = False
                self._write("\n")

    def _hear(self, event: str, *_: float, **__: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if event == _COMPILED:
            self._seconds = time.monotonic() - self._start
        self._kept += event == _FROM_CACHE
        self._anew += event == _NOT_IN_CACHE

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr may be full or closed
            sys.stderr.write(text)
            sys.stderr.flush()
