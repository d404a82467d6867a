"""ASGI middleware that guards the demonstration's page: own origin only, bounded uploads, no frames."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# Names of this machine under which the page may be asked for; another one is that of a site which had its name changed
# to point here.
_HOSTS = ("127.0.0.1", "localhost")
_HEADERS = (
    # The browser loads nothing from elsewhere, whatever a release of Gradio asks for, and shows it in no other page.
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
)
_BESIDE_THE_FILE = 1 << 20  # of a request: its headers, or a form without a file


class Guard:
    """ASGI middleware around the page's server."""

    def __init__(self, app: App, uploads: Path, most_file: int, most_bytes: int, most_files: int) -> None:
        """Guards an app.

        Args:
          app: the server's ASGI app.
          uploads: the folder where it keeps uploads, below folders of their own while they are complete.
          most_file: bytes of an upload.
          most_bytes: bytes of uploads that are kept at most, with as many more in transit; the oldest are removed.
          most_files: number of uploads that are kept at most.
        """
        self._app, self._uploads = app, uploads
        self._most_request, self._most_bytes, self._most_files = most_file + _BESIDE_THE_FILE, most_bytes, most_files
        self._requests = self._under_way = 0  # those with a body, and the bytes of these that have come

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers a request, or lets the app do it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        refusal = refused(scope)
        if refusal and scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008, "reason": refusal[1]})
        if refusal:
            await _read_rest(receive, {"more_body": True}, self._most_bytes)
            return await _answer(with_headers, *refusal)
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return await self._with_body(scope, receive, with_headers)
        return await self._app(scope, receive, with_headers)

    async def _with_body(self, scope: Message, receive: Receive, send: Send) -> None:
        """Counts the bytes received, whatever was announced, and tidies up the uploads afterwards."""
        from starlette.formparsers import MultiPartException  # at which Gradio removes what it has written

        count, answered = 0, False

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            size = len(message.get("body", b""))
            count, self._under_way = count + size, self._under_way + size
            if count > self._most_request or self._under_way > self._most_bytes:
                await _read_rest(receive, message, self._most_bytes)
                raise MultiPartException(f"A request has a maximum allowed size of {self._most_request:,} bytes.")
            return message

        async def noted(message: Message) -> None:
            nonlocal answered
            if not answered:
                self._tidy()
            answered = True
            await send(message)

        self._requests += 1
        try:
            await self._app(scope, counted, noted)
        except MultiPartException as error:
            if not answered:
                await _answer(send, 413, error.message)
        finally:
            self._requests -= 1
            self._under_way -= count
            self._tidy()

    def _tidy(self) -> None:
        """Removes the oldest uploads over the bounds, and what broken-off requests have left."""
        kept = []
        for path in self._uploads.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # Gradio removes what is old
                status = path.stat()
                if path.parent != self._uploads and not path.is_dir():
                    kept.append((status.st_mtime_ns, status.st_size, path))
                elif not path.is_dir() and not self._requests:  # incomplete
                    path.unlink()
        total = sum(size for _, size, _ in kept)
        for count, (_, size, path) in zip(range(len(kept), 0, -1), sorted(kept), strict=True):
            if total <= self._most_bytes and count <= self._most_files:
                break
            path.unlink(missing_ok=True)
            total -= size
            with contextlib.suppress(OSError):  # it holds another upload
                path.parent.rmdir()


def refused(scope: Message) -> tuple[int, str] | None:
    """Status and reason if a request names another host, or comes from a page of another site.

    A browser says where a request comes from: in `Origin`, except for mere reads, and in `Sec-Fetch-Site`. Following a
    link to the page is allowed. Programs other than browsers send neither.
    """
    values = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [value for name, value in values if name == "host"]
    if len(hosts) != 1 or hosts[0].split(":")[0] not in _HOSTS:
        return 400, "The page is served to this machine alone, as 127.0.0.1 or localhost."
    given = dict(values)
    origins = [value for name, value in values if name == "origin"]
    if any(origin.partition("://")[2] != hosts[0] for origin in origins):
        return 403, "Requests from pages of other sites are refused."
    follows = given.get("sec-fetch-mode") == "navigate" and given.get("sec-fetch-dest", "document") == "document"
    follows = follows and scope.get("method") in ("GET", "HEAD")
    if given.get("sec-fetch-site") in ("cross-site", "same-site") and not follows:
        return 403, "Requests from pages of other sites are refused."
    return None


async def _read_rest(receive: Receive, message: Message, most_bytes: int) -> None:
    """Reads what follows a part of a request, or the sender would not listen to the answer; at most so much."""
    while message.get("more_body") and most_bytes > 0:
        message = await receive()
        most_bytes -= len(message.get("body", b""))


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
