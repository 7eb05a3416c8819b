"""The faults that the requests of a run meet at random, all within the policy `known`."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import product

from minted_connect.sandbox import Sandbox
from tests.completion.plans.plan import LATEST, Settings
from tests.support.random_faults import FaultSpec, RandomFaults

_BOTH = (True, False)


def random_faults(server: Sandbox, settings: Settings) -> list[RandomFaults]:
    """Return the faults of completions, of changes of baskets, and of reads."""
    reads_basket = "acceptance" if settings.reads_basket == "arrival" else "execution"
    kinds = (
        (0.35, {"method": "POST", "path": "*/complete/*"}, _of_completions(reads_basket)),
        (0.08, {"method": "POST", "path": "*/basket"}, _of_changes()),
        (0.08, {"method": "PATCH", "path": "*/basket"}, _of_changes()),
        (0.15, {"method": "DELETE", "path": "*/basket*"}, _of_changes()),
        (0.05, {"method": "GET", "path": "*/basket"}, _of_reads()),
        (0.05, {"method": "GET", "path": "*/orders"}, _of_reads()),
    )
    return [
        RandomFaults(
            server.faults,
            random.Random(f"{settings.seed}/faults {number}"),
            share,
            table=[(kind, {**where, **args}) for kind, args in table],
        )
        for number, (share, where, table) in enumerate(kinds)
    ]


def _of_completions(reads_basket: str) -> list[FaultSpec]:
    late = {"reads_basket": reads_basket}
    refusals = product((400, 403, 404, 409, 429), _BOTH, ("before", "after", "never"))
    return [
        *4 * [("late_commit", {"seconds": seconds, "reset": reset, **late}) for seconds, reset in _late()],
        *(
            ("refusal", {"status": status, "is_envelope": is_envelope, "commit": commit, "seconds": LATEST, **late})
            for status, is_envelope, commit in refusals
        ),
        *(("status", {"status": status, "commit": commit}) for status, commit in product((500, 502, 503, 504), _BOTH)),
        *(("drop_after_commit", {"reset": reset}) for reset in _BOTH),
        *(("drop_before_read", {"reset": reset}) for reset in _BOTH),
        *((kind, {"commit": commit}) for kind, commit in product(("html", "success_false", "redirect"), _BOTH)),
        # Of the refusals in the vendor's envelope, the policy believes only a 422: it is never false.
        ("status", {"status": 422, "commit": False}),
        ("status", {"status": 422, "envelope": False, "commit": True}),
        ("delay", {"seconds": LATEST}),
        *(("delay_after_commit", {"seconds": seconds}) for seconds in (1.0, 4.0)),
        *((kind, {}) for kind in ("truncate", "empty", "invalid_json", "two_answers", "wrong_customer", "stale_nonce")),
    ]


def _of_changes() -> list[FaultSpec]:
    return [
        *2 * [("late_commit", {"seconds": seconds, "reset": reset}) for seconds, reset in _late()],
        *(("status", {"status": status, "commit": commit}) for status, commit in product((403, 503), _BOTH)),
        *(("drop_after_commit", {"reset": reset}) for reset in _BOTH),
        ("drop_before_read", {}),
        ("delay", {"seconds": LATEST}),
        ("delay_after_commit", {"seconds": 4.0}),
        *((kind, {}) for kind in ("truncate", "html", "wrong_customer", "stale_nonce")),
    ]


def _of_reads() -> list[FaultSpec]:
    return [
        *(("status", {"status": status}) for status in (403, 500, 503)),
        ("status", {"status": 404, "envelope": False}),
        ("drop_before_read", {}),
        ("delay", {"seconds": LATEST}),
        ("delay_after_commit", {"seconds": 4.0}),
        *((kind, {}) for kind in ("truncate", "html", "wrong_customer", "stale_nonce", "success_false")),
    ]


def _late() -> Iterable[tuple[float, bool]]:
    return product((0.05, 0.3, 0.7, LATEST), _BOTH)
