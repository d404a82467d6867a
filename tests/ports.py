"""Ports for servers of tests."""

import contextlib
import random
import socket


def free_port() -> int:
    """A port that is free, and stays so while what is to use it starts.

    It is below those that the system gives to whoever asks for any.
    """
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
