"""The log of requests that a sandbox saw, for assertions."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import overload

from attrs import define, field

KEPT_HEADERS = (
    "accept-encoding",
    "accept-language",
    "api-version",
    "content-length",
    "content-type",
    "user-agent",
    "x-client-id",
)


@define
class LoggedRequest:
    """One request. `Authorization` is not kept at all; the repr has no path, query or body: ids of people are in them.

    Attributes:
        method: as on the request line.
        path: without the query, as sent.
        operation: name such as `complete.buy`; "" when the path is unknown.
        query: of a repeated name the last value.
        headers: those of `KEPT_HEADERS` that came, names in lower case.
        body: parsed JSON, the bytes when it is not JSON, None when empty or never read.
        status: of the answer; None while there is none, and for good if a fault swallowed it.
        partner: username; None when not authenticated.
        nonce: of the digest, if there was one.
        nc: count of that nonce.
        at: the clock's `monotonic()` at arrival, seconds.
        fault: kind of the fault that hit it, if any.
        request_id: sent back as `X-Request-Id`.
    """

    method: str
    path: str = field(repr=False)
    operation: str
    query: dict[str, str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    at: float
    request_id: str
    body: object = field(default=None, repr=False)
    status: int | None = None
    partner: str | None = None
    nonce: str | None = field(default=None, repr=False)
    nc: int | None = None
    fault: str | None = None


class RequestLog(Sequence[LoggedRequest]):
    """The last requests, oldest first. Reading it from another thread is fine.

    Args:
        limit: how many are kept; 0 for none.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._entries: deque[LoggedRequest] = deque(maxlen=limit)
        self.total: int = 0
        """How many came, those that are not kept included."""

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> LoggedRequest: ...
    @overload
    def __getitem__(self, index: slice) -> list[LoggedRequest]: ...
    def __getitem__(self, index: int | slice) -> LoggedRequest | list[LoggedRequest]:
        return self._entries[index] if isinstance(index, int) else list(self._entries)[index]

    def __iter__(self) -> Iterator[LoggedRequest]:
        return iter(list(self._entries))

    def __repr__(self) -> str:
        return f"<RequestLog: {len(self)} of at most {self.limit}>"

    def of(self, operation: str) -> list[LoggedRequest]:
        """Return the requests of one operation, such as `complete.buy`."""
        return [entry for entry in self if entry.operation == operation]

    def append(self, entry: LoggedRequest) -> None:
        """Add a request; the oldest falls out when the log is full."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Forget everything so far."""
        self._entries.clear()
