"""The servers that other tests need, and the proxies: what is written through the one is read through the other."""

import os
import socket
import subprocess
import sys
import time

import fsspec
import pytest
from own_bucket import Bucket

pytestmark = pytest.mark.bucket


def test_a_bucket_holds_what_is_written(bucket: Bucket) -> None:
    files, folder = fsspec.core.url_to_fs(bucket.url + "/folder")
    files.pipe_file(f"{folder}/a.bin", bytes(range(100)))
    assert files.cat_file(f"{folder}/a.bin", start=10, end=13) == bytes([10, 11, 12])
    assert files.ls(folder, detail=False, refresh=True) == [f"{folder}/a.bin"]
    with pytest.raises(FileExistsError):
        files.pipe_file(f"{folder}/a.bin", b"", mode="create")


READ = """
import sys, fsspec
files, path = fsspec.core.url_to_fs(sys.argv[1])
for number in range(15):
    files.pipe_file(f"{path}/{number}", bytes([number]) * 100)
for number in range(15):
    assert files.cat_file(f"{path}/{number}", start=50) == bytes([number]) * 50
"""


def test_clients_get_through_the_flaky_proxy(bucket: Bucket) -> None:
    """Which fails one request in ten, as it counts."""
    bucket.flaky.forget()
    command = [sys.executable, "-c", READ, bucket.url + "/many"]
    subprocess.run(command, check=True, env=os.environ | bucket.flaky.environment)
    requests, faults = sum(bucket.flaky.requests.values()), sum(bucket.flaky.faults.values())
    assert requests >= 30
    assert 0 < faults < 0.3 * requests
    assert bucket.flaky.received >= 1500
    assert bucket.flaky.sent >= 750


STAND = """
import sys
sys.path[:0] = sys.argv[1:]
from servers import serving
with serving("gs") as server:
    print(server.address, flush=True)
    sys.stdin.read()
"""


def test_a_server_ends_with_a_killed_process(gcs: Bucket) -> None:
    command = [sys.executable, "-c", STAND, *sys.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        process.kill()
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))):
                return
        time.sleep(0.05)
    pytest.fail("the server is still there")
