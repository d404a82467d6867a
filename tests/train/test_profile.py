"""Which steps are traced, and where the traces are."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from flair_jax.train.profile import Profiler


@pytest.fixture
def traced(monkeypatch) -> list[str]:
    """Starts and ends of traces, without any; a trace is a file of one byte."""
    seen: list[str] = []

    def begin(folder: Path) -> None:
        seen.append(f"start {folder}")

    def end() -> None:
        folder = Path(seen[-1].removeprefix("start "))
        (folder / "plugins" / "profile" / "now").mkdir(parents=True)
        (folder / "plugins" / "profile" / "now" / "host.xplane.pb").write_bytes(b"x")
        seen.append("stop")

    monkeypatch.setattr(jax.profiler, "start_trace", begin)
    monkeypatch.setattr(jax.profiler, "stop_trace", end)
    return seen


def profiler(window: tuple[int, ...], workdir: Path, said: list[str]) -> Profiler:
    return Profiler(window, workdir, SimpleNamespace(say=said.append), lambda what: contextlib.nullcontext())


@pytest.mark.parametrize(
    ("window", "first", "last", "steps"),
    [
        ((), 0, 9, []),
        ((3, 5), 0, 9, [3, 4, 5]),
        ((1, 1), 0, 9, [1]),
        ((3, 5), 3, 9, [4, 5]),  # resumed within the window
        ((3, 5), 5, 9, []),  # and behind it
        ((3, 5), 0, 4, [3, 4]),  # the run ends within it
        ((3, 5), 0, 5, [3, 4, 5]),
    ],
)
def test_the_steps_of_the_window(tmp_path, traced, window, first: int, last: int, steps: list[int]) -> None:
    said, within = [], []
    with profiler(window, tmp_path, said) as traces:
        for done in range(first, last):
            with traces.step(done):
                pass
            if traced and traced[-1] != "stop":
                within.append(done + 1)
    assert within == steps
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["plugins/profile/now/host.xplane.pb"] * bool(steps)
    assert said == [f"profile: 1 file in {tmp_path}/plugins/profile"] * bool(steps)
    assert not any(Path(each.removeprefix("start ")).exists() for each in traced)


def test_a_run_that_fails_keeps_its_trace(tmp_path, traced) -> None:
    with contextlib.suppress(KeyError), profiler((1, 9), tmp_path, []) as traces, traces.step(0):
        raise KeyError
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_trace_that_fails_is_said_once_and_training_continues(tmp_path, traced, monkeypatch) -> None:
    def begin(folder: Path) -> None:
        raise RuntimeError("Only one profile may be run at a time.")

    monkeypatch.setattr(jax.profiler, "start_trace", begin)
    said = []
    with profiler((2, 4), tmp_path, said) as traces:
        for done in range(6):
            with traces.step(done):
                pass
    assert said == ["the steps cannot be profiled, and training continues: Only one profile may be run at a time."]


def test_what_the_profiler_writes_is_tensorboards(tmp_path) -> None:
    with profiler((1, 1), tmp_path, []) as traces:
        with traces.step(0):
            jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((8, 8))))
        with traces.step(1):
            pass
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"step_num" in trace.read_bytes()
