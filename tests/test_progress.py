"""Progress bars count things by their names, and programs are named while they are compiled."""

import io
import logging
import re
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flair_jax import compiling
from flair_jax.console import open_lines, run_command
from flair_jax.progress import BYTES, ProgressBar


class Clock(ProgressBar):
    """A bar that is at `n` after `elapsed` seconds."""

    def __init__(self, n: int, elapsed: float, **values: object) -> None:
        super().__init__(**{"description": "read", "unit": "text", **values})
        self.n, now = n, self.start_t + elapsed
        self._time = lambda: now

    def text(self) -> str:
        words = str(self)
        self.close()
        return " ".join(words.split())


@pytest.mark.parametrize(
    ("n", "elapsed", "values", "counts", "rate"),
    [
        (30, 10, {"total": 60}, "30/60 texts", "3.0 texts/s"),
        (5, 10, {"total": 10, "unit": "step"}, "5/10 steps", "2.00 s/step"),
        (5_000, 2, {"total": 10_000, "unit": "image"}, "5000/10000 images", "2,500 images/s"),
        (2_000_000, 1, {"total": 4_000_000, "unit": "pair"}, "2.00M/4.00M pairs", "2.00M pairs/s"),
        (5_000_000, 2, {"total": 10_000_000, "unit": BYTES}, "5.00M/10.0MB", "2.50MB/s"),
        (1, 2, {"total": 1, "unit": "tar"}, "1/1 tar", "2.00 s/tar"),
        (40, 2, {"unit": "row"}, "40 rows", "20.0 rows/s"),
        (0, 2, {"total": 4, "unit": "tar"}, "0/4 tars", "? tars/s"),
        (30, 10, {"total": 60, "done": 15}, "30/60 texts", "1.5 texts/s"),
    ],
)
def test_rates_are_in_what_is_counted(n: int, elapsed: float, values: dict, counts: str, rate: str) -> None:
    text = Clock(n, elapsed, **values).text()
    assert f" {counts} [" in text
    assert f", {rate}]" in text
    assert text.startswith("read: ")


def test_a_bar_that_goes_through_items(capsys) -> None:
    assert list(ProgressBar([1, 2, 3], description="attach", unit="tar")) == [1, 2, 3]
    err = capsys.readouterr().err
    assert "attach: 100%" in err
    assert "3/3 tars [" in err
    assert list(ProgressBar([1, 2], description="attach", unit="tar", shown=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_a_log_is_not_filled_with_states(capsys) -> None:
    for _ in ProgressBar(range(30), description="attach", unit="tar"):
        time.sleep(0.01)
    assert capsys.readouterr().err.count("tars [") <= 3, "one at the start, and one at the end"


def nested(bar: ProgressBar) -> None:
    """Warns, says something and shows another bar, while `bar` is there."""
    logging.getLogger("flair_jax").warning("a picture is broken")
    bar.write("a line of the output")
    for _ in ProgressBar([1, 2], description="texts", unit="text"):
        bar.set_description("evaluating")
    bar.set_description("attach")


@pytest.fixture
def lines(monkeypatch) -> Callable[[io.StringIO], list[str]]:
    """What a command prints on such a stderr, of `nested` within a bar."""

    def of(stream: io.StringIO) -> list[str]:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        with ProgressBar(total=3, description="attach", unit="tar") as bar:
            assert run_command(lambda: nested(bar)) == 0
            bar.update(3)
        return stream.getvalue().split("\n")

    return of


def test_in_a_log_each_state_and_each_warning_is_a_line(lines, capsys) -> None:
    found = lines(io.StringIO())
    assert not any("\r" in line or "\x1b" in line for line in found)
    assert [re.match(r"(\w+: +\d+%|[^:]+:|$)", line)[0] for line in found] == [
        *("attach:   0%", "WARNING:", "texts:   0%", "evaluating:   0%", "evaluating:   0%", "texts: 100%"),
        *("attach:   0%", "attach: 100%", ""),
    ]
    assert capsys.readouterr().out == "a line of the output\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_warning_stands_above_the_bar(lines) -> None:
    (warning,) = (line for line in lines(Terminal()) if "WARNING" in line)
    bar, cleared, last = warning.rsplit("\r", 2)
    assert "attach:   0%" in bar
    assert (cleared.strip(), last) == ("", "WARNING: a picture is broken")


def until_begun() -> None:
    """Waits for the line, which another thread begins."""
    deadline = time.monotonic() + 60
    while not open_lines[0].__self__._begun:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def fail_when_begun() -> None:
    until_begun()
    raise ZeroDivisionError


@pytest.fixture
def slow(monkeypatch) -> None:
    """Any compilation is worth a line."""
    monkeypatch.setattr(compiling, "_LEAST", 0.0)


def test_one_line_names_what_is_compiled(slow, capsys) -> None:
    first = compiling.FirstCalls(2)
    function = jax.jit(lambda x: jnp.sin(x) + 0.12345)
    for size in (3, 3, 5):
        x = np.ones(size, np.float32)
        with first.compiling("the sines", x):
            function(x)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:  # a busy machine takes a second
        assert re.fullmatch(r"flair-jax: compiling the sines on 2 devices \.\.\. done in \d+ s", line)


def test_a_warning_meanwhile_is_a_line_too(slow, capsys, monkeypatch) -> None:
    def run() -> None:
        with compiling.compiling("it"):
            until_begun()
            logging.getLogger("flair_jax").warning("the disk is full")
            jax.jit(lambda x: jnp.sin(x) + 0.98765)(np.ones(3))

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert run_command(run) == 0
    begun, warning, done = capsys.readouterr().err.splitlines()
    assert (begun, warning) == ("flair-jax: compiling it ...", "WARNING: the disk is full")
    assert re.fullmatch(r"flair-jax: compiling it \.\.\. done in \d+ s", done)
    assert not open_lines


def test_nothing_is_said_of_what_is_quick_or_of_another_process(capsys, monkeypatch) -> None:
    monkeypatch.setattr(compiling, "_LEAST", 60.0)
    with compiling.compiling("the cosines"):
        jax.jit(lambda x: jnp.cos(x) + 0.54321)(np.ones(3))
    monkeypatch.setattr(compiling, "_LEAST", 0.0)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with compiling.compiling("the cosines"):
        jax.jit(lambda x: jnp.cos(x) + 0.64321)(np.ones(3))
    assert capsys.readouterr().err == ""


def test_the_line_ends_where_the_work_fails(slow, capsys) -> None:
    with pytest.raises(ZeroDivisionError), compiling.compiling("a failure"):
        fail_when_begun()
    assert capsys.readouterr().err == "flair-jax: compiling a failure ...\n"
    with compiling.compiling("what is not compiled"):
        until_begun()
    assert capsys.readouterr().err == "flair-jax: compiling what is not compiled ...\n"


def test_programs_that_are_kept_are_named_as_such(slow, capsys) -> None:
    """The tests keep what they compile, in a folder that is new."""
    for _ in range(2):
        with compiling.compiling("it"):
            jax.jit(lambda x: jnp.tan(x) + 0.1357)(np.ones(3))
        jax.clear_caches()
    line = r"flair-jax: compiling it \.\.\. done in \d+ s"  # a busy machine takes a second
    assert re.fullmatch(f"{line}\n{line}, kept from before\n", capsys.readouterr().err)


def test_a_closed_stream_is_no_error(slow, monkeypatch) -> None:
    closed = io.StringIO()
    closed.close()
    with compiling.compiling("it"):
        monkeypatch.setattr(sys, "stderr", closed)
        jax.jit(lambda x: jnp.tan(x) + 0.24680)(np.ones(3))
