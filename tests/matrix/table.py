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
LOGIN = "test_refused.py::test_one_more_round_of_the_login"
PASSWORD = "test_refused.py::test_a_password_that_was_changed"
SPUN_OUT = "test_on_the_wire.py::test_answers_without_end"
EARLY = "test_on_the_wire.py::test_an_answer_before_the_request"
MIXED_UP = "test_on_the_wire.py::test_answers_about_somebody_else"
SAID_NO = "test_refused.py::test_refused"

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
    Row("F21", "401 first challenge", ROUND, ROUND, ROUND, ROUND, LOGIN),
    Row("F22", "401 stale=true", ROUND, ROUND, ROUND, ROUND, LOGIN),
    # An earlier attempt of a completion that is unknown ends it: there is no later one that a 401 or a 422 could meet.
    Row("F23", "401 after correct digest", X, X, X, X, PASSWORD),
    Row("F24", "challenge weaker than pinned / Basic only / other origin / empty nonce", X, X, X, X, SAID_NO),
    Row("F25", "403", X, X, X, RBX, SAID_NO),
    Row("F26", "404", X, {"first": X, "second": FINE}, X, RBX, SAID_NO),
    Row("F27", "409", X, RB, RB, RBX, SAID_NO),
    Row("F28", "422", X, {"first": X, "second": RB}, X, {"": X, "bare": RBX}, SAID_NO),
    Row(
        "F29",
        "429 with Retry-After within deadline / beyond / absent",
        {"": RT, "beyond": X},
        {"": RT, "beyond": X},
        {"": RT1, "beyond": X},
        {"": RT1, "beyond": X, "after the fix": X, "bare": RBX},
        SAID_NO,
    ),
    Row("F30", "500", RT, RT, RB, U, SAID_NO),
    Row("F31", "502 / 504", RT, RT, RB, U, SAID_NO),
    Row("F32", "503 (+ Retry-After)", RT, RT, RB, U, SAID_NO),
    Row("F33", "408 / 425", RT, RT, RB, U, SAID_NO),
    Row("F34", "3xx any", X, X, X, U, SAID_NO),
    Row(
        "F35",
        "endless 1xx, slow-loris headers/body, > 128 headers, > 8190 B line",
        {"slow": X, "deadline": X, "unreadable": X},
        RB,
        RB,
        U,
        SPUN_OUT,
    ),
    Row(
        "F36",
        "two answers on one connection / answer before request",
        {"two": RT, "early": RT},
        {"two": RB, "early": RB},
        {"two": RB, "early": RB},
        {"two": U, "early": U},
        EARLY,
    ),
    Row("F37", "answer for another customer or another token", X, X, X, U, MIXED_UP),
)


DEVIATIONS: Final[Mapping[tuple[str, str, str], tuple[Outcome, str]]] = {
    ("F20", "S", "missing"): (RB, "the change can be seen in the basket: looked for before it counts as failed"),
    ("F34", "S", ""): (RB, "whoever redirects may have passed it on first, and the change can be seen"),
    ("F34", "A", ""): (RB, "whoever redirects may have passed it on first, and the change can be seen"),
    ("F35", "R", "slow"): (
        RT,
        "a read that is late is one like any other (F13): repeated as long as the deadline allows",
    ),
    ("F35", "R", "unreadable"): (ONCE, "a head that cannot be read is junk like a body (F17): asked once more"),
    ("F36", "R", "two"): (FINE, "the first answer is whole and the one asked for; the connection is not used again"),
    ("F36", "S", "two"): (FINE, "the first answer is whole and about this basket; the connection is not used again"),
    ("F36", "A", "two"): (FINE, "the first answer is whole and about this basket; the connection is not used again"),
    ("F36", "S", "early"): (
        RT,
        "seen before the first byte leaves: provably not sent, so another connection will do",
    ),
    ("F36", "A", "early"): (
        RT1,
        "seen before the first byte leaves: provably not sent, so another connection will do",
    ),
    ("F36", "M", "early"): (
        RT1,
        "seen before the first byte leaves: provably not sent, so another connection will do",
    ),
}
"""By row, effect and case: what this client does instead, and why it is better."""


TABLE: Final = {row.name: row for row in ROWS}


def outcome(row: str, effect: str, case: str = "") -> Outcome:
    """Return what is to come of a fault here, our own better ways included."""
    cases = TABLE[row].cases(effect)
    found = cases[case] if case in cases else cases[""]
    deviation = DEVIATIONS.get((row, effect, case)) or DEVIATIONS.get((row, effect, ""))
    return deviation[0] if deviation else found
