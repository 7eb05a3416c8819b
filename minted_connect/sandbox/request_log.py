"""The log of the requests to a sandbox, for assertions in tests."""

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
    """One request. `Authorization` is not logged; the repr omits path, query and body, which contain ids of people.

    Attributes:
        method: HTTP method.
        path: path as sent, without the query.
        operation: name such as `complete.buy`; "" if path or method is unknown.
        query: parameters; of a repeated name the last value.
        headers: those of `KEPT_HEADERS` that were sent, names in lower case.
        body: the parsed JSON, the bytes if it is not JSON, None if it is empty or was not read.
        status: status of the response; None before it is sent, and if a fault drops the connection.
        partner: username; None if not authenticated.
        nonce: nonce of the digest, if any.
        nc: nonce count of the digest, if any.
        at: the clock's `monotonic()` on receipt, in seconds.
        fault: kind of the fault that was applied, if any; `reset_idle` if `reset_idle()` reset the connection.
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
    """The last requests, oldest first. It may be read from any thread.

    Args:
        limit: maximum number of entries; 0 turns the log off.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._entries: deque[LoggedRequest] = deque(maxlen=limit)
        self.total: int = 0
        """Number of all requests, those without an entry included."""

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
        """Add a request; a full log drops its oldest entry."""
        self._entries.append(entry)

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
