"""Servers in separate processes, so that the measured client does not share a core with them.

`MINIMAL` responds as fast as asyncio permits with the documented basket, if the request has a Digest `Authorization`,
which is not verified, or is below `/open`; otherwise with a challenge. Below `/slow`, each response takes 20 ms.
`SANDBOX` is the sandbox of the SDK.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["LATENCY", "MINIMAL", "OPEN", "SAMPLE", "SANDBOX", "SLOW", "Served"]

ROOT: Final = Path(__file__).resolve().parent.parent
MINIMAL: Final = "minimal"
SANDBOX: Final = "sandbox"
OPEN: Final = "/open"
SLOW: Final = "/slow"
LATENCY: Final = 0.02
"""Seconds before a response below `/slow`."""
_END: Final = b"\r\n\r\n"


def _sample() -> bytes:
    document = json.loads((ROOT / "tests" / "samples" / "update_basket_item.response.json").read_text("utf-8"))
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


SAMPLE: Final = _sample()
"""The documented basket in its envelope, compact."""


def _response(status: str, body: bytes, *fields: str) -> bytes:
    head = "\r\n".join(
        [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *fields]
    )
    return head.encode() + _END + body


_BASKET: Final = _response("200 OK", SAMPLE)
_CHALLENGE: Final = _response(
    "401 Unauthorized",
    b'{"data":null,"success":false,"code":401,"message":""}',
    'WWW-Authenticate: Digest realm="benchmarks", qop="auth", algorithm=SHA-256, nonce="c2l4dGVlbiBieXRlcyE"',
)


_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


class _Minimal(asyncio.Protocol):
    """Responds to each request with the basket, or with a Digest challenge."""

    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        self._rest += data
        while _END in self._rest:
            head, _, rest = self._rest.partition(_END)
            length = 0
            if not head.startswith(b"GET") and (found := _LENGTH.search(head)):
                length = int(found[1])
                if len(rest) < length:
                    return
            self._rest = rest[length:]
            self._respond(head)

    def _respond(self, head: bytes) -> None:
        _Minimal.served += 1
        target = head.partition(b" ")[2]
        known = target.startswith(b"/open/") or b"\r\nauthorization: digest " in head.lower()
        response = _BASKET if known else _CHALLENGE
        if target.startswith(b"/slow/"):
            asyncio.get_running_loop().call_later(LATENCY, self._transport.write, response)
        else:
            self._transport.write(response)


class Served:
    """Context manager that runs a server process; the server also ends when this process does."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.server", self._kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        hello = self._ask()
        self.url: str = hello["url"]
        self.username: str = hello["username"]
        self.password: str = hello["password"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def at(self, path: str) -> Served:
        """Return the same server with `path` appended to its URL."""
        other = copy(self)
        other.url = self.url + path
        return other

    def requests(self) -> int:
        """Return the number of requests received."""
        return int(self._ask()["requests"])

    def cpu(self) -> float:
        """Return the CPU time of the server in seconds."""
        return float(self._ask()["cpu"])

    def _ask(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        state: dict[str, Any] = json.loads(self._process.stdout.readline())
        return state


async def _serve_minimal() -> None:
    server = await asyncio.get_running_loop().create_server(_Minimal, "127.0.0.1", 0, backlog=1024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await _attend(f"http://127.0.0.1:{port}", "partner", "secret", lambda: _Minimal.served)


async def _serve_sandbox() -> None:
    from minted_connect.sandbox import Sandbox  # noqa: PLC0415 - the minimal server starts without the SDK

    async with Sandbox(log_limit=0) as sandbox:
        await _attend(sandbox.url, sandbox.username, sandbox.password, lambda: sandbox.requests.total)


async def _attend(url: str, username: str, password: str, requests: Callable[[], int]) -> None:
    """Write the state of the server to stdout for each line on stdin, until stdin ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen() -> None:
        # In a thread, because asyncio cannot read pipes on every system.
        for _ in sys.stdin:
            state = {"url": url, "username": username, "password": password}
            print(json.dumps({**state, "requests": requests(), "cpu": time.process_time()}), flush=True)
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=listen, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(_serve_sandbox() if sys.argv[1] == SANDBOX else _serve_minimal())
