"""An HTTP proxy in front of an object store that counts requests, and fails or delays some of them."""

import asyncio
import collections
import contextlib
import dataclasses
import random
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import aiohttp
import aiohttp.web
from servers import Server

FAULTS = ("busy", "refuse", "lose", "cut", "delay")
HOP_BY_HOP = {"connection", "content-length", "expect", "host", "keep-alive", "transfer-encoding"}


@dataclasses.dataclass
class Behaviour:
    """What the proxy does to requests; may be changed while it runs.

    Attributes:
      fail: the share of requests that fail: answered 503 ("busy"), hung up on before ("refuse") or after the store has
        done them ("lose"), answered by half ("cut"), or late ("delay").
      latency: seconds before each request is passed on.
      answer: an HTTP status that answers everything, without asking the store; 0: none.
      seed: of which request fails, and how: by what it asks for and how often that was asked for before.
    """

    fail: float = 0.0
    latency: float = 0.0
    answer: int = 0
    seed: int = 0

    def fault(self, what: str, times: int) -> str:
        rng = random.Random(f"{self.seed} {what} {times}")
        return rng.choice(FAULTS) if rng.random() < self.fail else ""


class Proxy(Server):
    """A proxy that runs in a thread of this process.

    Attributes:
      behaviour: of it.
      requests: how many it has seen, by method.
      faults: how many it has failed, by kind.
      sent: bytes of the answers' bodies that it has passed on.
      received: bytes of the requests' bodies.
    """

    def __init__(self, scheme: str, behind: str, behaviour: Behaviour) -> None:
        self.behind, self.behaviour = behind, behaviour
        self.forget()
        self._seen = collections.Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        super().__init__(scheme, self._run(self._start()))

    def forget(self) -> None:
        """Sets all counts to zero."""
        self.requests, self.faults = collections.Counter(), collections.Counter()
        self.sent = self.received = 0

    def close(self) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> str:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._runner = aiohttp.web.ServerRunner(aiohttp.web.Server(self._answer), shutdown_timeout=1)
        await self._runner.setup()
        site = aiohttp.web.TCPSite(self._runner, "127.0.0.1", 0, backlog=512)
        await site.start()
        return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            body = await request.content.read()
        except ConnectionResetError:  # the client is gone
            return aiohttp.web.Response()
        self.requests[request.method] += 1
        self.received += len(body)
        what = f"{request.method} {request.raw_path} {request.headers.get('Range', '')}"
        fault = self.behaviour.fault(what, self._seen[what])
        if fault in ("lose", "cut") and "upload_id=" in request.raw_path:
            fault = "busy"  # fake-gcs-server forgets an upload that is done; Google's own tells so when asked again
        self._seen[what] += 1
        if fault:
            self.faults[fault] += 1
        await asyncio.sleep(self.behaviour.latency + (0.3 if fault == "delay" else 0))
        if self.behaviour.answer:
            return aiohttp.web.Response(status=self.behaviour.answer)
        if fault == "busy":
            return aiohttp.web.Response(status=503, text="Slow Down")
        if fault == "refuse":
            return self._hang_up(request)
        status, headers, content = await self._pass_on(request, body)
        if fault == "lose":
            return self._hang_up(request)
        if fault == "cut" and len(content) > 1 and request.method != "HEAD":
            return await self._cut(request, status, headers, content)
        self.sent += len(content)
        if request.method == "HEAD":
            response = aiohttp.web.StreamResponse(status=status, headers=headers)
            await response.prepare(request)
            return response
        headers.pop("Content-Length", None)
        return aiohttp.web.Response(status=status, headers=headers, body=content)

    async def _pass_on(self, request: aiohttp.web.BaseRequest, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The store's status, headers, and body; URLs of the store in its headers become the proxy's."""
        import yarl

        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = yarl.URL(self.behind + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            content = await answer.read()
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if "Content-Length" in answer.headers and request.method == "HEAD":
                kept["Content-Length"] = answer.headers["Content-Length"]
            if "Location" in kept:
                kept["Location"] = kept["Location"].replace(self.behind, self.address)
            return answer.status, kept, content

    def _hang_up(self, request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        if request.transport is not None:  # or the client has gone first
            request.transport.abort()
        return aiohttp.web.Response()

    async def _cut(
        self, request: aiohttp.web.BaseRequest, status: int, headers: dict[str, str], content: bytes
    ) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(content))})
        with contextlib.suppress(aiohttp.ClientConnectionResetError):  # the client has gone first
            await response.prepare(request)
            await response.write(content[: len(content) // 2])
        return self._hang_up(request)


@contextlib.contextmanager
def proxied(server: Server, behaviour: Behaviour) -> Iterator[Proxy]:
    """A proxy in front of a store during the block."""
    proxy = Proxy(server.scheme, server.address, behaviour)
    try:
        yield proxy
    finally:
        proxy.close()
