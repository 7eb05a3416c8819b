"""The fault matrix as data: what each fault does to each kind of call, and which test proves it.

R = a read, S = a change that can be repeated, A = an addition, M = a completion (money).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

EFFECTS: Final = "RSAM"


class Outcome(enum.Enum):
    """What is to come of a fault."""

    RT = "sent again, within budget and deadline"
    ONCE = "sent again once, then the error"
    RT1 = "sent again once: provably nothing was carried out"
    RB = "read back, and decided by what is seen"
    U = "OutcomeUnknown, settled by reconcile()"
    X = "the error, at once"
    RBX = "read back once, then the error"
    NOT_SENT = "NotSent: nothing reached the server"
    GIVEN_UP = "the cancellation goes on, with a note where something may have happened"
    ROUND = "one more round of the login, and no retry"
    FINE = "the answer is taken"
    CONFIRMED = "confirmed by the keys that can be read"
    PENDING = "found in pending() by the next process"
    APART = "both are done, independently"
    TURNS = "one after the other"
    SHARED = "the second waits, and gets the first one's result"
    CLOSED = "ClientClosedError that says why, and no hanging"
    NONE = "not applicable"


RT, ONCE, RT1, RB, U, X, RBX = (
    Outcome.RT,
    Outcome.ONCE,
    Outcome.RT1,
    Outcome.RB,
    Outcome.U,
    Outcome.X,
    Outcome.RBX,
)
NOT_SENT, GIVEN_UP, ROUND, FINE, CONFIRMED, NONE, CLOSED = (
    Outcome.NOT_SENT,
    Outcome.GIVEN_UP,
    Outcome.ROUND,
    Outcome.FINE,
    Outcome.CONFIRMED,
    Outcome.NONE,
    Outcome.CLOSED,
)

Codes = Outcome | Mapping[str, Outcome]
"""One outcome, or several by the case they hold for."""


@attrs.frozen
class Row:
    """One fault, and what is to come of it for each effect."""

    name: str
    fault: str
    R: Codes
    S: Codes
    A: Codes
    M: Codes
    proof: str | Mapping[str, str]
    """The test that proves it: of all effects, or by effect."""

    def cases(self, effect: str) -> Mapping[str, Outcome]:
        codes: Codes = getattr(self, effect)
        return {"": codes} if isinstance(codes, Outcome) else codes

    def proved_by(self, effect: str) -> str:
        return self.proof if isinstance(self.proof, str) else self.proof[effect]


SENT = "test_sent.py::test_sent"
REUSED = "test_sent.py::test_on_a_reused_connection"
IN_PART = "test_sent.py::test_written_in_part"
GAPS = "test_sent.py::test_answers_with_gaps"

ROWS: Final = (
    Row("F10", "reset on a reused idle connection (headers event seen)", RT, RT, RB, U, REUSED),
    Row("F11", "reset/EOF after send, before status", RT, RT, RB, U, SENT),
    Row("F12", "write fails mid-body", RT, RT, RB, U, IN_PART),
    Row("F13", "read timeout / total deadline after send", {"timeout": RT, "deadline": X}, RB, RB, U, SENT),
    Row("F16", "2xx, body truncated (Content-Length or chunk)", RT, RB, RB, U, SENT),
    Row("F17", "2xx, invalid JSON / HTML page / wrong type / NaN / depth bomb", ONCE, RB, RB, U, SENT),
    Row("F18", "2xx over size cap, decompression bomb", X, RB, RB, U, SENT),
    Row("F19", "2xx success:false", X, X, X, RBX, SENT),
    Row(
        "F20",
        "2xx valid but a required field missing or a new enum",
        {"missing": X, "new": FINE},
        {"missing": X, "new": FINE},
        {"missing": RB, "new": FINE},
        {"missing": CONFIRMED, "no keys": U, "new": FINE},
        GAPS,
    ),
)


DEVIATIONS: Final[Mapping[tuple[str, str, str], tuple[Outcome, str]]] = {
    ("F20", "S", "missing"): (RB, "the change can be seen in the basket: looked for before it counts as failed"),
}
"""By row, effect and case: what this client does instead, and why it is better."""


TABLE: Final = {row.name: row for row in ROWS}


def outcome(row: str, effect: str, case: str = "") -> Outcome:
    """Return what is to come of a fault here, our own better ways included."""
    cases = TABLE[row].cases(effect)
    found = cases[case] if case in cases else cases[""]
    deviation = DEVIATIONS.get((row, effect, case)) or DEVIATIONS.get((row, effect, ""))
    return deviation[0] if deviation else found
