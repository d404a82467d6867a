"""A stand-in for the hub on this machine: what its library asks of it to make repositories, commit and download."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

TOKEN = "hf_only_for_this_test"


class MadeHub(http.server.BaseHTTPRequestHandler):
    """Repositories as {name: {"private": bool, "branches": {name: commit}}}, and commits as {commit: {file: bytes}}."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict]
    commits: dict[str, dict[str, bytes]]
    requests: list[tuple[str, str]]

    def do_HEAD(self) -> None:
        self._resolve(send=False)

    def do_GET(self) -> None:
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

    def _resolve(self, *, send: bool) -> None:
        type(self).requests.append((self.command, self.path))
        match = re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/(.+)", self.path)
        repository = self.repositories.get(match[1]) if match else None
        commit = repository and repository["branches"].get(match[2], match[2])
        files = self.commits.get(commit) if repository else None
        code = "RepoNotFound" if repository is None else "RevisionNotFound" if files is None else "EntryNotFound"
        content = files.get(match[3]) if files is not None else None
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
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
    MadeHub.repositories, MadeHub.commits, MadeHub.requests = {}, {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), MadeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    server.shutdown()
