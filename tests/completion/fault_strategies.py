"""Hypothesis strategies for the faults of the sandbox that one request of a purchase can meet."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

FaultSpec = tuple[str, dict[str, Any]]
"""Kind and arguments of a fault."""

DELAYS: Final = (1.0, 20.0, 44.0, 50.0, 100.0, 300.0, 700.0)
"""A completion times out after 45 s, and a price lock lasts 240."""
READS: Final = ("*/basket", "*/orders*", "*/basket/empty")
VISIBLE: Final = ("drop_before_read", "truncate", "status", "html", "empty", "invalid_json")
"""Faults of reads that no client can take for a correct response."""
FIELDS: Final = (
    "token",
    "guid",
    "id",
    "customer",
    "customer.external_id",
    "order_creation_status",
    "status_name",
    "paid_total",
    "items",
    "items.0",
    "type",
    "data.0",
    "last_page",
)


def is_false_refusal(fault: FaultSpec, trusted: frozenset[int]) -> bool:
    """Return whether a fault refuses an executed completion with a status that the client trusts."""
    kind, args = fault
    if kind not in {"status", "refusal"} or args["commit"] in {False, "never"}:
        return False
    enveloped = args.get("is_envelope", args.get("envelope")) and not args.get("html")
    return enveloped and args["status"] in trusted


def _fault(kind: str, **args: st.SearchStrategy[Any]) -> st.SearchStrategy[FaultSpec]:
    return st.tuples(st.just(kind), st.fixed_dictionaries(args))


def _status(*statuses: int) -> st.SearchStrategy[FaultSpec]:
    return _fault(
        "status",
        status=st.sampled_from(statuses),
        commit=st.booleans(),
        envelope=st.booleans(),
        html=st.booleans(),
        retry_after=st.sampled_from((None, 1, 3600)),
    )


broken: Final = st.one_of(
    _fault("drop_before_read", reset=st.booleans()),
    _fault("drop_after_commit", reset=st.booleans()),
    _fault("delay", seconds=st.sampled_from(DELAYS)),
    _fault("delay_after_commit", seconds=st.sampled_from(DELAYS)),
    _fault("truncate", chunked=st.booleans(), keep=st.sampled_from((0.0, 0.5, 0.99))),
    _status(408, 425, 500, 502, 503, 504),
    _status(400, 403, 404, 409),
    _status(401, 422, 429),
    _fault("redirect", commit=st.booleans()),
    _fault("html", commit=st.booleans()),
    _fault("success_false", commit=st.booleans(), code=st.sampled_from((1, 422))),
    _fault("drop_field", field=st.sampled_from(FIELDS)),
    _fault("wrong_customer"),
    _fault("stale_nonce"),
    _fault("two_answers"),
    st.sampled_from(("invalid_json", "empty", "duplicate_keys", "nan", "interim", "many_headers")).flatmap(_fault),
)
"""The response is lost, invalid or wrong; the request is executed or not."""

late: Final = _fault("late_commit", seconds=st.sampled_from(DELAYS), reset=st.booleans())
"""The connection breaks at once, and the request is executed later."""

refused: Final = _fault(
    "refusal",
    status=st.sampled_from((200, 400, 401, 402, 403, 404, 405, 409, 410, 413, 418, 422, 429, 451)),
    is_envelope=st.booleans(),
    challenge=st.sampled_from((None, None, "basic", "digest_other_realm")),
    retry_after=st.sampled_from((None, None, 0, 1, 10, 3600)),
    commit=st.sampled_from(("before", "after", "never")),
    seconds=st.sampled_from(DELAYS),
)
"""A refusal; the request is executed before it, after it, or never."""

failed: Final = _fault(
    "order_status",
    name=st.sampled_from(("Cancelled", "Canceled", "Failed", "\u0130ptal Edildi")),
    where=st.sampled_from(("response", "list", "both")),
)
"""The order is made, but listed as failed."""

odd_rows: Final = st.sampled_from(
    (
        {"field": "order_at", "value": "?"},
        {"field": "paid_total", "value": ""},
        {"field": "id", "value": "x"},
        {"field": "token", "value": 12},
        {"field": "guid", "value": []},
        {"field": "customer", "value": []},
        {"field": "order_creation_status", "value": 1},
    )
).map(lambda change: ("odd_row", dict(change)))
"""One row of a list of orders cannot be read."""

lost: Final = st.just(("drop_after_commit", {"reset": False}))
