"""What may go wrong with one request of a purchase, as hypothesis strategies over the faults of the sandbox."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

Trouble = tuple[str, dict[str, Any]]
"""Kind and arguments of a fault."""

SECONDS: Final = (1.0, 20.0, 44.0, 50.0, 100.0, 300.0, 700.0)
"""A completion times out after 45 s, and a price lock lasts 240."""
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


def _is_honest(trouble: Trouble) -> bool:
    """Tell whether it leaves the client what it relies on: that these refusals are said before anything is done."""
    args = trouble[1]
    enveloped = args["envelope"] and not args["html"]
    return not args["commit"] or not (args["status"] == 401 or (args["status"] in {422, 429} and enveloped))


def _fault(kind: str, **args: st.SearchStrategy[Any]) -> st.SearchStrategy[Trouble]:
    return st.tuples(st.just(kind), st.fixed_dictionaries(args))


def _status(*statuses: int) -> st.SearchStrategy[Trouble]:
    return _fault(
        "status",
        status=st.sampled_from(statuses),
        commit=st.booleans(),
        envelope=st.booleans(),
        html=st.booleans(),
        retry_after=st.sampled_from((None, 1, 3600)),
    ).filter(_is_honest)


broken: Final = st.one_of(
    _fault("drop_before_read", reset=st.booleans()),
    _fault("drop_after_commit", reset=st.booleans()),
    _fault("delay", seconds=st.sampled_from(SECONDS)),
    _fault("delay_after_commit", seconds=st.sampled_from(SECONDS)),
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
"""The answer is lost, spoilt or a lie, or there was none; the work is done, or is not."""

late: Final = _fault("late_commit", seconds=st.sampled_from(SECONDS), reset=st.booleans())
"""The connection breaks at once, and the work is done some time later."""
