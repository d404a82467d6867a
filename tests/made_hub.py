"""A stand-in for the hub on this machine: what its library asks of it to make repositories, commit and download."""

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

TOKEN = "hf_only_for_this_test"


class MadeHub(http.server.BaseHTTPRequestHandler):
    """Repositories as {name: {"private": bool, "branches": {name: commit}}}, and commits as {commit: {file: bytes}}.

    `etags` has what is said of a file instead of its hash.
    """

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict]
    commits: dict[str, dict[str, bytes]]
    requests: list[tuple[str, str]]
    etags: dict[str, str]

    def do_HEAD(self) -> None:
        self._resolve(send=False)

    def do_GET(self) -> None:
        if match := re.fullmatch(r"/api/models/(\w+/[\w-]+)(?:/revision/([\w%]+))?", self.path):
            self._describe(match[1], unquote(match[2] or "main"))
        else:
            self._resolve(send=True)

    def do_POST(self) -> None:
        type(self).requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/branch/(\w+)", self.path):
            branches = self.repositories[match[1]]["branches"]
            branches.setdefault(match[2], branches["main"])
            self._answer(200, {})
        elif re.fullmatch(r"/api/models/\w+/\w+/preupload/\w+", self.path):
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in _files(body)]
            self._answer(200, {"files": modes})
        elif match := re.fullmatch(r"/api/models/(\w+/\w+)/commit/(\w+)", self.path):
            self._commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
        else:
            self._answer(404, {"error": f"not made: {self.path}"})

    def _create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        known = name in self.repositories
        if not known:
            self.commits["0" * 40] = {}
            self.repositories[name] = {"private": wanted["visibility"] == "private", "branches": {"main": "0" * 40}}
        self._answer(409 if known else 200, {"url": f"http://{self.headers['Host']}/{name}"})

    def _commit(self, name: str, branch: str, lines: list[dict]) -> None:
        branches = self.repositories[name]["branches"]
        files = dict(self.commits[branches[branch]])
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        branches[branch] = commit
        self._answer(200, {"commitUrl": f"http://{self.headers['Host']}/{name}/commit/{commit}", "commitOid": commit})

    def _describe(self, name: str, revision: str) -> None:
        if name not in self.repositories:
            self._answer(404, {"error": "Repository not found"})
            return
        branches = self.repositories[name]["branches"]
        commit = branches.get(revision, revision)
        files = [{"rfilename": file} for file in self.commits[commit]]
        self._answer(200, {"id": name, "sha": commit, "siblings": files})

    def _resolve(self, *, send: bool) -> None:
        type(self).requests.append((self.command, self.path))
        match = re.fullmatch(r"/(\w+/[\w-]+)/resolve/([\w%]+)/(.+)", self.path)
        repository = self.repositories.get(match[1]) if match else None
        revision = unquote(match[2]) if match else ""
        commit = repository and repository["branches"].get(revision, revision)
        files = self.commits.get(commit) if repository else None
        code = "RepoNotFound" if repository is None else "RevisionNotFound" if files is None else "EntryNotFound"
        content = files.get(match[3]) if files is not None else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", f'"{self.etags.get(match[3], hashlib.sha256(content).hexdigest())}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if send and content is not None:
            self.wfile.write(content)

    def _answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


def _files(body: bytes) -> list[dict]:
    return json.loads(body)["files"]


@contextlib.contextmanager
def made_hub(home: Path) -> Iterator[dict[str, str]]:
    """Starts an empty hub; gives the environment in which the hub's library uses it, with a token."""
    MadeHub.repositories, MadeHub.commits, MadeHub.requests, MadeHub.etags = {}, {}, [], {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MadeHub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    server.shutdown()


def put(name: str, files: dict[str, bytes], branch: str = "main") -> str:
    """Puts files into a repository of the hub; gives the commit."""
    commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    MadeHub.repositories.setdefault(name, {"private": False, "branches": {}})["branches"][branch] = commit
    MadeHub.commits[commit] = files
    return commit


def use_here(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Makes the hub's library, which reads its environment once, use such a hub in this process."""
    from huggingface_hub import constants

    from flair_jax.weights import locate

    endpoint = environment["HF_ENDPOINT"]
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path(environment["HF_HOME"]) / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", environment.get("HF_HUB_OFFLINE") == "1")
    monkeypatch.setenv("HF_TOKEN", environment["HF_TOKEN"])
    monkeypatch.setattr(locate, "_fetch", functools.cache(locate._fetch.__wrapped__))
