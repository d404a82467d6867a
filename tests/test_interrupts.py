"""How programs end on Ctrl-C and SIGTERM, by programs without JAX: also in compiled code that goes on for minutes."""

import signal
import subprocess
import sys
import time

import pytest

from flair_jax.console import run_command
from flair_jax.errors import WorkerError

pytestmark = pytest.mark.usefixtures("heeded_ctrl_c")

# Each prints a line when it is time for the signal.
START = """
import hashlib, sys, time
from flair_jax import interrupts
from flair_jax.console import run_command
interrupts._TO_BEGIN = interrupts._TO_CLOSE = 0.3

def ready():
    print("ready", flush=True)

def compiled_code():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes, in which no Python code runs

"""
END = "\nsys.exit(interrupts.run(lambda: run_command(program)))"
WAITS = "def program():\n    ready()\n    time.sleep(60)"
COMPILES = "def program():\n    ready()\n    compiled_code()"
LOST_IN_A_DESTRUCTOR = """
class Sleeper:
    def __del__(self):
        ready()
        time.sleep(60)

def program():
    Sleeper()
    compiled_code()
"""
TURNED_INTO_ANOTHER_ERROR = """
def program():
    try:
        ready()
        time.sleep(60)
    except KeyboardInterrupt:
        raise OSError("an import failed")
"""
CANNOT_CLOSE = """
def program():
    try:
        ready()
        time.sleep(60)
    finally:
        compiled_code()
"""
AFTER_THE_END = """
import atexit
atexit.register(lambda: (ready(), time.sleep(1), print("all is written")))
def program():
    return 0
"""


def end(code: str, number: int, *, again: bool = False) -> tuple[int, str, str, float]:
    """Runs a program, sends a signal when it is ready, and gives status, stdout, stderr and seconds."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + code + END], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    begin = time.monotonic()
    process.send_signal(number)
    while again and process.poll() is None:
        time.sleep(0.1)
        process.send_signal(number)
    out, err = process.communicate(timeout=50)
    return process.returncode, out, err.strip(), time.monotonic() - begin


@pytest.mark.parametrize("code", [WAITS, COMPILES, LOST_IN_A_DESTRUCTOR, TURNED_INTO_ANOTHER_ERROR, CANNOT_CLOSE])
def test_ctrl_c_is_one_sentence_and_130(code: str) -> None:
    status, out, err, seconds = end(code, signal.SIGINT)
    assert (status, out, err) == (130, "", "flair-jax: interrupted")
    assert seconds < 20


def test_a_second_ctrl_c_does_not_wait() -> None:
    code = f"{COMPILES}\ninterrupts._TO_BEGIN = 600"
    assert end(code, signal.SIGINT, again=True)[:3] == (130, "", "flair-jax: interrupted")


def test_ctrl_c_when_all_is_done_changes_nothing() -> None:
    assert end(AFTER_THE_END, signal.SIGINT)[:3] == (0, "all is written\n", "")


def test_sigterm_ends_a_program_with_nothing_to_lose_at_once() -> None:
    code = "def program():\n    interrupts.end_at_sigterm(143, 'nothing was lost')\n    ready()\n    compiled_code()"
    assert end(code, signal.SIGTERM)[:3] == (143, "", "flair-jax: nothing was lost")


FAREWELLS = """
interrupts._TO_TELL = 0.2

def wait(*_):
    time.sleep(60)

def say(status, sentence):
    print(status, sentence, flush=True)

def program():
    for each in (wait, say, json.loads, wait, wait):
        interrupts.tell_at_end(each)
    interrupts.tell_no_more(wait)
    interrupts.tell_at_end(wait)
    interrupts.end_at_sigterm(143, "nothing was lost")
    ready()
    compiled_code()
"""


def test_who_is_told_of_the_end_can_neither_prevent_it_nor_fail() -> None:
    """`wait` is told once, and waits; `json.loads` takes no second argument."""
    status, out, err, seconds = end("import json\n" + FAREWELLS, signal.SIGTERM)
    assert (status, out, err) == (143, "143 nothing was lost\n", "flair-jax: nothing was lost")
    assert seconds < 10


# As JAX's preemption service, C's function is one that Python does not know of.
PASSED_ON = """
import ctypes, os, signal
c_signal = ctypes.CDLL(None).signal
c_signal.argtypes, c_signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
ADDRESS = ctypes.cast(ctypes.CDLL(None)._exit, ctypes.c_void_p).value

def program():
    {handler}
    interrupts.end_at_sigterm(143, "ended too early")
    interrupts.pass_sigterm_on()
    ready()
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("handler", "status"),
    [
        ("c_signal(signal.SIGTERM, ADDRESS)", signal.SIGTERM),  # _exit(15)
        ("signal.signal(signal.SIGTERM, lambda *_: os._exit(3))", 3),
        ("", -signal.SIGTERM),
    ],
)
def test_sigterm_is_given_back_to_what_it_was_to_call(handler: str, status: int) -> None:
    assert end(PASSED_ON.format(handler=handler), signal.SIGTERM)[:3] == (status, "", "")


ORPHANS = """
import asyncio
from flair_jax.errors import CheckpointError

async def write():
    raise ValueError("the folder is gone")

async def save():
    writes = [asyncio.ensure_future(write()) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return writes, write()

def program():
    error = CheckpointError("it cannot be written")
    error.left = asyncio.run(save())
    ready()
    raise error
"""


def test_writes_that_were_under_way_when_another_failed_say_nothing() -> None:
    status, _, err, _ = end(ORPHANS, 0)
    assert (status, err) == (2, "flair-jax: error: it cannot be written")


def test_an_error_says_with_what_to_exit(capsys) -> None:
    def command() -> int:
        raise WorkerError("a worker has died")

    assert run_command(command) == 1
    assert capsys.readouterr().err == "flair-jax: error: a worker has died\n"
