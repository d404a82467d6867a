"""Downloads, from a stand-in for the hub on this machine."""

import errno
import hashlib
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants, errors, get_session
from huggingface_hub.utils import hf_raise_for_status
from made_hub import MadeHub, made_hub, put, use_here

from flair_jax.weights import hub
from flair_jax.weights.hub_errors import describe_failure
from flair_jax.weights.param_map import ConversionError

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
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    server.shutdown()


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[dict[str, str]]:
    """An empty hub, which the library in this process uses."""
    with made_hub(tmp_path / "hub-home") as environment:
        use_here(monkeypatch, environment)
        yield environment


def test_download_resumes_and_is_cached(endpoint) -> None:
    """In a process of its own, with the settings that a user has."""
    Hub.breaks = 1
    script = (
        "import sys\n"
        "from flair_jax.weights.hub import download\n"
        "name = 'hf://owner/models/deep/model.safetensors'\n"
        "for _ in range(2):\n"
        "    try: print(download(name))\n"
        "    except ValueError as error: print(error, file=sys.stderr)\n"
    )
    outcome = subprocess.run([sys.executable, "-c", script], env=os.environ | endpoint, capture_output=True, text=True)
    lines = outcome.stdout.splitlines()
    assert lines, outcome.stderr  # the library may give up or try again by itself; a second start must go on either way
    assert Path(lines[-1]).read_bytes() == CONTENT
    ranges = [wanted for command, _, wanted in Hub.requests if command == "GET"]
    assert any(wanted and not wanted.startswith("bytes=0-") for wanted in ranges), f"started anew: {ranges}"


def test_the_cache_is_used(here, monkeypatch) -> None:
    put("owner/models", {"deep/model.safetensors": b"weights"})
    name = "hf://owner/models/deep/model.safetensors"
    path = hub.download(name)
    assert path.read_bytes() == b"weights"
    MadeHub.requests.clear()
    assert hub.download(name) == path
    assert not [command for command, _ in MadeHub.requests if command == "GET"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.download(name) == path


@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("v2", "hf://owner/models@v2/a.pt"),
        ("refs/pr/3", "hf://owner/models@refs/pr/3/a.pt"),
        ("refs/pr/3", "hf://owner/models@refs%2Fpr%2F3/a.pt"),
        ("refs/convert/parquet", "hf://owner/models@refs/convert/parquet/a.pt"),
        ("a/b", "hf://owner/models@a%2Fb/a.pt"),
    ],
)
def test_revisions(here, branch: str, name: str) -> None:
    put("owner/models", {"a.pt": b"main"})
    put("owner/models", {"a.pt": branch.encode()}, branch)
    assert hub.download(name).read_bytes() == branch.encode()
    assert hub.split("hf://owner/models/b@refs/pr/3.pt") == ("owner/models", None, "b@refs/pr/3.pt")


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://owner", "hf://owner/models", "hf://owner/models@main", "hf://owner//f", "hf://owner/models@/f"],
)
def test_malformed_names(name: str) -> None:
    with pytest.raises(ConversionError, match="expected hf://OWNER/REPOSITORY/FILE"):
        hub.download(name)


def test_shards_come_with_their_index(here) -> None:
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
    files = {
        "x/m.safetensors.index.json": json.dumps(index).encode(),
        "x/m-1.safetensors": b"1",
        "x/m-2.safetensors": b"2",
    }
    put("owner/models", files)
    path = hub.download("hf://owner/models/x/m.safetensors.index.json")
    assert (path.parent / "m-2.safetensors").read_bytes() == b"2"


def test_a_missing_file_lists_what_is_there(here) -> None:
    put("owner/models", {"a.pt": b"", "b.pt": b""})
    with pytest.raises(ConversionError) as error:
        hub.download("hf://owner/models/gone.pt")
    assert str(error.value).startswith(
        "hf://owner/models/gone.pt: cannot be downloaded: the repository has no file gone.pt"
    )
    assert str(error.value).endswith("; it has a.pt, b.pt")
    assert hub.download_if_there("hf://owner/models/gone.pt") is None


def test_offline_names_the_setting(here, monkeypatch) -> None:
    put("owner/models", {"a.pt": b""})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConversionError, match=r"HF_HUB_OFFLINE is set, and the cache .* has no copy; unset it"):
        hub.download("hf://owner/models/a.pt")
    assert hub.download_if_there("hf://owner/models/a.pt") is None


@pytest.mark.parametrize("told", ["0" * 64, "0" * 40])
def test_another_file_than_the_hub_describes_is_refused(here, told: str) -> None:
    put("owner/models", {"a.pt": b"weights"})
    MadeHub.etags["a.pt"] = told
    with pytest.raises(ConversionError, match="is not the one that the hub describes"):
        hub.download("hf://owner/models/a.pt")
    MadeHub.etags["a.pt"] = hashlib.sha1(b"blob 7\0weights").hexdigest()  # as git names it
    put("owner/other", {"a.pt": b"weights"})
    assert hub.download("hf://owner/other/a.pt").read_bytes() == b"weights"


def test_what_leads_out_of_the_cache_is_not_used(here, tmp_path) -> None:
    put("owner/models", {"a.pt": b"weights"})
    # The library adds the name to .locks/models--owner--models/ too, which is as deep.
    MadeHub.etags["a.pt"] = "../../../../outside"
    with pytest.raises(ConversionError, match=r"led out of the cache, to .*outside; remove that file"):
        hub.download("hf://owner/models/a.pt")


def refused(status: int, **headers: str) -> Exception:
    """What the library raises for such an answer."""
    request = get_session().build_request("GET", "https://huggingface.co/owner/models/resolve/main/a.pt")
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(errors.HfHubHTTPError) as error:
        hf_raise_for_status(errors.Response(status, headers=names, request=request, content=b"{}"))
    return error.value


def caused(cause: Exception) -> Exception:
    """As the library hides a cause."""
    error = errors.LocalEntryNotFoundError("An error happened while trying to locate the file on the Hub.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            lambda: refused(404, X_Error_Code="RepoNotFound"),
            r"has no repository owner/models, or it is private and you are",
        ),
        (lambda: refused(401), r"has no repository owner/models, or it is private and you are not logged in"),
        (
            lambda: refused(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted."),
            r"is gated; ask for access at https://huggingface.co/owner/models, and log in .*Access is restricted\)",
        ),
        (lambda: refused(404, X_Error_Code="RevisionNotFound"), r"has no branch, tag or commit v7"),
        (
            lambda: refused(401, X_Error_Message="Invalid credentials in Authorization header"),
            r"answers 401: it does not accept your token.*the hub says: Invalid credentials",
        ),
        (
            lambda: caused(refused(403, X_Error_Message="No.")),
            r"answers 403: your token may not .*\(the hub says: No\)",
        ),
        (lambda: refused(403, X_Error_Message="Access to this resource is disabled."), "has been disabled"),
        (lambda: caused(refused(429, Retry_After="60")), r"answers 429, too many requests; wait 60 s"),
        (lambda: caused(refused(503)), r"answers 503, so the fault is on its side; try again later"),
        (lambda: caused(refused(418)), r"answers 418"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), r"disk of the cache .* is full; make room"),
        (lambda: RuntimeError("Data processing error: No space left on device"), r"disk of the cache .* is full"),
        (lambda: PermissionError(errno.EACCES, "Permission denied"), r"cache .* cannot be written .*set HF_HOME"),
        (lambda: OSError("Consistency check failed: file\nshould be larger"), r"not the file that the hub announced"),
        (lambda: errors.HFValidationError("Repo id must be\nx"), r"none that the hub can have \(Repo id must be x\)"),
        (lambda: caused(errors.FileMetadataError("No ETag.")), r"No ETag. \(FileMetadataError\)"),
    ],
)
def test_what_the_library_explains_arrives(monkeypatch, error, message: str) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("flair_jax.weights.hub_errors.get_token", lambda: None)
    sentence = describe_failure(error(), "owner/models", "v7", "a.pt")
    assert re.search(message, sentence), sentence
    assert "\n" not in sentence


def test_nobody_there_is_one_sentence(here, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ConversionError, match=r"hf://a/b: .*no connection with http://127.0.0.1:9 \(.*refused\); check"
    ):
        hub.list_files("hf://a/b")


def test_what_the_library_logs_is_printed_once(monkeypatch) -> None:
    """It has a handler of its own; what other libraries set on the root logger printed each line again."""
    printed = []
    again = logging.Handler()
    again.emit = printed.append

    def fail(*_) -> None:
        logging.getLogger("huggingface_hub.utils").warning("Retrying")
        raise ConnectionError("gone")

    monkeypatch.setattr(hub, "_list_files", fail)
    logging.getLogger().addHandler(again)
    try:
        with pytest.raises(ConversionError, match=r"hf://a/b: its files cannot be listed: gone \(ConnectionError\)"):
            hub.list_files("hf://a/b")
    finally:
        logging.getLogger().removeHandler(again)
    assert not printed
    assert logging.getLogger("huggingface_hub").propagate
