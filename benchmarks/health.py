"""What a run's measurements of itself cost: CPU time of the training thread for each step, and of each entry.

JAX_PLATFORMS=cpu python benchmarks/health.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from flair_jax.configs.default import get_config
from flair_jax.settings import TrainSettings
from flair_jax.train.background import Background
from flair_jax.train.health import Health
from flair_jax.train.identity import describe_run
from flair_jax.train.profile import Profiler
from flair_jax.train.startup import Startup

STEPS, BETWEEN_LOGS, ENTRIES = 100_000, 50, 50


def main() -> None:
    """Prints the costs."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    config = get_config()
    config.steps = STEPS
    run = describe_run(TrainSettings.from_config(config), 3_000_000)
    with tempfile.TemporaryDirectory() as folder:
        startup = Startup()
        background = Background(60)  # never started: its work is timed here
        with Health(Path(folder), run, 0, startup, background) as health:
            startup.finish()
            health.begin_steps()
            profiler = Profiler((), Path(folder), SimpleNamespace(), lambda what: nullcontext())
            steps = _microseconds(lambda: _steps(health, startup, profiler)) / STEPS
            logs = _microseconds(lambda: [_log(health) for _ in range(1000)]) / 1000
            entries = _microseconds(lambda: [health._write() for _ in range(ENTRIES)]) / ENTRIES
    print(f"{steps:.2f} us a step, {logs:.0f} us more for each of the metrics' lines (on every {BETWEEN_LOGS}th step)")
    print(f"{entries:.0f} us for each entry, every 30 s, by another thread")


def _steps(health: Health, startup: Startup, profiler: Profiler) -> None:
    """What the loop does for each step, and forgets at each log."""
    for step in range(STEPS):
        with profiler.step(step):
            with startup.phase("data"):
                pass
            with startup.phase("compile"):
                pass
        health.step_done(step)
        if step % BETWEEN_LOGS == 0:
            health._intervals.clear()


def _log(health: Health) -> None:
    for step in range(BETWEEN_LOGS):
        health.step_done(step)
    health.values()


def _microseconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return 1e6 * (time.thread_time() - start)


if __name__ == "__main__":
    main()
