"""Traces of a few steps for TensorBoard's profiler."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import jax

from flair_jax.errors import plural
from flair_jax.files import replace_when_complete
from flair_jax.parallel.processes import Processes
from flair_jax.train.logger import MetricLogger

_UNMARKED = contextlib.nullcontext()


class Profiler:
    """Traces the steps of a window on the first process; a context manager, which ends a trace that is under way.

    The other processes run the same program, and a pod's worth of traces would fill the workdir. The profiler writes
    to a temporary folder of this machine, whose files then move to WORKDIR/plugins/profile, be that a bucket or not. A
    trace that fails is said, and training continues.
    """

    def __init__(
        self,
        window: tuple[int, ...],
        workdir: Path,
        logger: MetricLogger,
        outside: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """Prepares it.

        Args:
          window: the first and the last step, from 1; () for none.
          workdir: the run's folder.
          logger: says where a trace is.
          outside: `Meter.outside`.
        """
        active = window and Processes.all().index == 0
        self._first, self._last = window if active else (0, 0)
        self._workdir, self._logger, self._outside = workdir, logger, outside
        self._folder: Path | None = None

    def __enter__(self) -> Profiler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._stop(self._folder)

    def step(self, done: int) -> AbstractContextManager[object]:
        """Marks the block as the next step after so many that are done; starts or ends the trace first if it is time.

        A run that resumes within the window traces the rest of it.
        """
        if self._folder is not None and done >= self._last:
            with self._outside("profiling"):
                self._stop(self._folder)
        elif self._folder is None and self._first - 1 <= done < self._last:
            with self._outside("profiling"):
                self._start()
        if self._folder is None:
            return _UNMARKED
        return jax.profiler.StepTraceAnnotation("train", step_num=done + 1)

    def _start(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="flair-jax-profile-"))
        try:
            jax.profiler.start_trace(folder)
        except Exception as error:  # another profiler is at work, or the device has none
            shutil.rmtree(folder, ignore_errors=True)
            self._fail(error)
        else:
            self._folder = folder

    def _stop(self, folder: Path) -> None:
        self._folder = None
        try:
            jax.profiler.stop_trace()
            files = [file for file in folder.rglob("*") if file.is_file()]
            for file in files:
                with replace_when_complete(self._workdir / file.relative_to(folder).as_posix()) as partial:
                    partial.write_bytes(file.read_bytes())
        except Exception as error:  # of the profiler, the disk or the bucket
            self._fail(error)
        else:
            self._logger.say(f"profile: {plural(len(files), 'file')} in {self._workdir / 'plugins' / 'profile'}")
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)

    def _fail(self, error: Exception) -> None:
        self._first = self._last = 0
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self._logger.say(f"the steps cannot be profiled, and training continues: {reason}")
