"""Downloads, from a stand-in for the hub on this machine."""

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flair_jax.convert import hub
from flair_jax.convert.param_map import ConversionError

# The library writes in pieces of 10 MB, so less than that would not be there to resume from.
CONTENT = np.random.default_rng(0).bytes(30_000_000)
COMMIT = "0" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """One file of one repository; the first download breaks off half-way."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str, str | None]]
    breaks: int

    def do_HEAD(self) -> None:
        self.reply(send=False)

    def do_GET(self) -> None:
        self.reply(send=True)

    def reply(self, send: bool) -> None:
        wanted = self.headers.get("Range")
        type(self).requests.append((self.command, self.path, wanted))
        if not re.fullmatch(r"/owner/models/resolve/(main|v2)/deep/model.safetensors", self.path):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(re.fullmatch(r"bytes=(\d+)-.*", wanted)[1]) if wanted and send else 0
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if send and type(self).breaks:
            type(self).breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        elif send:
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def endpoint(tmp_path) -> Iterator[dict[str, str]]:
    """Environment that points the hub's library here."""
    Hub.requests, Hub.breaks = [], 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    server.shutdown()


def download(name: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its environment once."""
    script = (
        "import sys\n"
        "from flair_jax.convert.hub import download\n"
        "from flair_jax.errors import FlairError\n"
        "try: print(download(sys.argv[1]))\n"
        "except FlairError as error: sys.exit(str(error))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script, name], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_download_resumes_and_is_cached(endpoint) -> None:
    Hub.breaks = 1
    name = "hf://owner/models/deep/model.safetensors"
    outcome = download(name, endpoint)
    if outcome.returncode:  # the library may give up or try again by itself; a second start must go on either way
        outcome = download(name, endpoint)
    assert outcome.returncode == 0, outcome.stderr
    assert Path(outcome.stdout.strip()).read_bytes() == CONTENT
    ranges = [wanted for command, _, wanted in Hub.requests if command == "GET"]
    assert any(wanted and not wanted.startswith("bytes=0-") for wanted in ranges), f"started anew: {ranges}"

    Hub.requests.clear()
    again = download(name, endpoint)
    assert again.stdout == outcome.stdout
    assert not [command for command, _, _ in Hub.requests if command == "GET"], "the cache was not used"
    offline = download(name, endpoint | {"HF_HUB_OFFLINE": "1"})
    assert offline.stdout == outcome.stdout


def test_revision(endpoint) -> None:
    assert download("hf://owner/models@v2/deep/model.safetensors", endpoint).returncode == 0
    assert all("/resolve/v2/" in path for _, path, _ in Hub.requests)


def test_a_missing_file_is_one_sentence(endpoint) -> None:
    outcome = download("hf://owner/models/gone.pt", endpoint)
    assert outcome.returncode == 1
    assert "hf://owner/models/gone.pt: cannot be downloaded (" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize(
    "name", ["hf://", "hf://owner", "hf://owner/models", "hf://owner/models@main", "hf://owner//f"]
)
def test_malformed_names(name: str) -> None:
    with pytest.raises(ConversionError, match="expected hf://OWNER/REPOSITORY/FILE"):
        hub.download(name)
