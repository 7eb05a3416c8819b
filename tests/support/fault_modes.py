"""The modes of the sandbox that cause the faults of the fault matrix."""

from __future__ import annotations

from typing import Any, Final

import attrs

from minted_connect import APIError, AuthDowngrade, Completion, MintedConnectError, OutcomeUnknown
from minted_connect.sandbox.active_faults import FaultKind
from tests.matrix.table import Outcome, outcome
from tests.support.operations import GOLD

CUSTOMER: Final = "customer-1"
BUY: Final = "*/complete/buy"
PINNED: Final = 'Digest realm="Minted Connect", nonce="n", qop="auth", algorithm=SHA-256'

CLIENT_SIDE: Final = {
    **dict.fromkeys(("F01", "F02", "F03"), "no server is reached"),
    **dict.fromkeys(("F07", "F09", "F14", "F38", "F42"), "caused by the caller or the settings of the client"),
    **dict.fromkeys(("F15", "F39", "F41", "F50", "F52"), "caused by processes, forks, signals or closing"),
    **dict.fromkeys(("F40", "F51"), "caused by the clock of the machine; `ManualClock` simulates it"),
    **dict.fromkeys(("F43", "F49"), "caused by the journal"),
}
"""The faults that no server, proxy or network causes, with the reason."""


@attrs.frozen
class Mode:
    """A fault of the sandbox that causes a fault of the matrix in a purchase."""

    row: str
    kind: FaultKind
    args: dict[str, Any] = attrs.field(factory=dict[str, Any])
    variant: str = ""
    """The variant of the cell in the matrix."""
    executed: bool = False
    """Whether the purchase is executed although the client is told otherwise."""
    path: str = BUY
    expected: Outcome | None = None
    """Replaces the outcome in the matrix, which is for other arguments."""

    @property
    def outcome(self) -> Outcome:
        return self.expected or outcome(self.row, "M", self.variant)

    @property
    def name(self) -> str:
        return "-".join([self.row, self.kind, *(str(value)[:20] for value in self.args.values())])


def both(row: str, kind: FaultKind, variant: str = "", **args: Any) -> list[Mode]:
    """Return a mode that executes the purchase and one that does not."""
    never, before = ("never", "before") if kind == "refusal" else (False, True)
    return [
        Mode(row, kind, {**args, "commit": never}, variant),
        Mode(row, kind, {**args, "commit": before}, variant, executed=True),
    ]


def executed(row: str, kind: FaultKind, variant: str = "", **args: Any) -> Mode:
    return Mode(row, kind, args, variant, executed=True)


MODES: Final = [
    Mode("F11", "drop_before_read"),
    Mode("F11", "drop_before_read", {"reset": True}),
    executed("F11", "drop_after_commit"),
    executed("F11", "drop_after_commit", reset=True),
    Mode("F13", "delay", {"seconds": 100}, executed=True),
    executed("F13", "delay_after_commit", seconds=100),
    executed("F16", "truncate"),
    executed("F16", "truncate", chunked=True, keep=0.9),
    *both("F17", "html"),
    *(executed("F17", kind) for kind in ("empty", "invalid_json", "nan", "duplicate_keys", "deep")),
    executed("F18", "too_large"),
    executed("F18", "gzip_bomb"),
    *both("F19", "success_false"),
    executed("F20", "drop_field", "missing", field="paid_total"),
    executed("F20", "extra_field", "new", field="status_name", value="Levitating"),
    executed("F20", "order_status", "new", name="Levitating", where="response"),
    executed("F22", "stale_nonce"),
    Mode("F23", "status", {"status": 401, "headers": {"WWW-Authenticate": PINNED}}),
    *both("F23", "refusal", "bare", status=401),
    *both("F24", "refusal", status=401, challenge="basic"),
    *both("F24", "refusal", status=401, challenge="digest_other_realm"),
    *(mode for status in (400, 402, 403, 405, 410, 413, 451) for mode in both("F25", "refusal", status=status)),
    *both("F25", "refusal", status=403, is_envelope=False),
    *both("F26", "refusal", status=404),
    *both("F27", "refusal", status=409),
    Mode("F28", "refusal", {"status": 422, "commit": "never"}),
    *both("F28", "refusal", "bare", status=422, is_envelope=False),
    *both("F29", "rate_limit"),
    *both("F29", "refusal", status=429, retry_after=1),
    *both("F30", "status", status=500),
    *both("F31", "status", status=502, html=True),
    *both("F31", "status", status=504, envelope=False),
    *both("F32", "status", status=503, retry_after=1),
    *both("F33", "status", status=408),
    *both("F33", "status", status=425),
    *both("F34", "redirect"),
    *both("F34", "redirect", status=307),
    Mode("F35", "interim", {"commit": False}),
    executed("F35", "slow_loris"),
    executed("F35", "slow_loris", where="head"),
    executed("F35", "many_headers"),
    executed("F35", "long_header"),
    Mode("F36", "two_answers", executed=True, expected=Outcome.ACCEPTED),
    executed("F37", "wrong_customer"),
    executed("F37", "extra_field", field="token", value="X" * 32),
    executed("F46", "refusal", commit="after", seconds=1),
    Mode("F46", "late_commit", {"seconds": 1}, executed=True, expected=Outcome.U),
]
OPTIONS: Final[dict[str, list[str]]] = {
    "F04": ["ssl_context"],
    "F05": ["ssl_context"],
    "F21": ["nonce_uses", "nonce_lifetime"],
    "F45": ["orders_lag", "reads_lag"],
    "F48": ["lock_restart", "lock_restart_reprices"],
}
"""The faults that an option of the sandbox causes."""
RESETS: Final = {"F10", "F47"}
"""The faults that `reset_idle` causes."""
OTHER_PLACES: Final[dict[str, FaultKind]] = {
    "F06": "hang",
    "F08": "status",
    "F12": "drop_before_read",
    "F44": "status",
}
"""The faults of the matrix that other requests than a purchase with a small body meet, or several requests."""
ROWS: Final = {"odd_row", "page_drift"}
"""Faults of lists, which the matrix of purchases does not have; statement 52 covers them."""


async def buy(client: Any) -> Any:
    """Buy; return the result or the error."""
    basket = await client.baskets.add_item(CUSTOMER, sku=GOLD)
    try:
        return await client.complete.buy(basket, expected_total=basket.paid_total)
    except MintedConnectError as error:
        return error


def check_outcome(found: Any, expected: Outcome, *, executed: bool, row: str = "") -> None:
    if expected is Outcome.U:
        assert isinstance(found, OutcomeUnknown)
    elif expected in {Outcome.POLLED, Outcome.RBX} and executed:
        assert isinstance(found, Completion)
        assert found.reconciled
    elif expected in {Outcome.POLLED, Outcome.RBX, Outcome.X}:
        assert isinstance(found, AuthDowngrade if row == "F24" else APIError)
        assert not executed
    elif expected is Outcome.CONFIRMED:
        assert isinstance(found, Completion)
        assert (found.order, found.reconciled) == (None, False)
    else:
        assert expected in {Outcome.ACCEPTED, Outcome.REAUTHENTICATED}
        assert isinstance(found, Completion)
        assert (found.order is not None, found.reconciled) == (True, False)
