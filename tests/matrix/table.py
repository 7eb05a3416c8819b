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
    """The expected outcome of a fault."""

    RT = "sent again, within budget and deadline"
    ONCE = "sent again once, then the error"
    RT1 = "sent again once: provably nothing was carried out"
    RB = "read back, and decided by what is seen"
    U = "OutcomeUnknown, settled by complete.reconcile"
    X = "the error, at once"
    RBX = "read back once, then the error"
    LOOKS = "sent once, polled until the settle time, then the error"
    LATER = "OutcomeUnknown: the time for the read-back ended first; settled by complete.reconcile"
    NOT_SENT = "NotSent: nothing reached the server"
    GIVEN_UP = "the cancellation goes on, with a note where something may have happened"
    ROUND = "one more round of the login, and no retry"
    FINE = "the response is accepted"
    CONFIRMED = "confirmed by the keys that can be read"
    PENDING = "found in pending() by the next process"
    APART = "both are done, independently"
    TURNS = "one after the other"
    SHARED = "the second waits, and gets the first one's result"
    UNAFFECTED = "as ever"
    ENDED = "a typed error that names what may have happened"
    CLOSED = "ClientClosedError that says why, and no hanging"
    STALE = "an older state is returned, and nothing worse"
    NONE = "not applicable"


RT, ONCE, RT1, RB, U = Outcome.RT, Outcome.ONCE, Outcome.RT1, Outcome.RB, Outcome.U
X, RBX, NOT_SENT, GIVEN_UP, ROUND = Outcome.X, Outcome.RBX, Outcome.NOT_SENT, Outcome.GIVEN_UP, Outcome.ROUND
LOOKS, LATER, STALE, ENDED = Outcome.LOOKS, Outcome.LATER, Outcome.STALE, Outcome.ENDED
FINE, CONFIRMED, PENDING, UNAFFECTED = Outcome.FINE, Outcome.CONFIRMED, Outcome.PENDING, Outcome.UNAFFECTED
APART, TURNS, SHARED, CLOSED, NONE = Outcome.APART, Outcome.TURNS, Outcome.SHARED, Outcome.CLOSED, Outcome.NONE

Codes = Outcome | Mapping[str, Outcome]
"""One outcome, or several by variant."""


@attrs.frozen
class Row:
    """One fault with its expected outcome for each effect."""

    name: str
    fault: str
    outcomes: tuple[Codes, Codes, Codes, Codes]
    """Of R, S, A and M."""
    proof: str | Mapping[str, str]
    """The test that proves the row: one for all cells, or by effect or client."""

    def variants(self, effect: str) -> Mapping[str, Outcome]:
        """Return the expected outcomes by variant; most cells have one, whose name is empty."""
        codes = self.outcomes[EFFECTS.index(effect)]
        return {"": codes} if isinstance(codes, Outcome) else codes

    def proved_by(self, effect: str, client: str) -> str:
        if isinstance(self.proof, str):
            return self.proof
        by_effect = next((proof for key, proof in self.proof.items() if effect in key), None)
        return by_effect or self.proof[client]


_BEFORE, _SENT, _REFUSED = "test_before_sending.py", "test_sent.py", "test_refused.py"
_WIRE, _GIVEN_UP, _TOGETHER = "test_on_the_wire.py", "test_given_up.py", "test_side_by_side.py"
_CLOCKS, _READ_BACK, _CLOSING = "test_clocks_and_journals.py", "test_read_back.py", "test_closing.py"
_LATE, _STOPPED, _LOST = "test_late.py", "test_stopped.py", "test_lost_journals.py"
NOT_YET: Final = ""
"""The proof of a row that is not covered yet: `UNCOVERED` gives the reason."""
_NO_CONNECTION = f"{_BEFORE}::test_no_connection"

_AGAIN_IN_THE_FIX = {"": RT1, "fix over": NOT_SENT}
_GAPS = {"missing": X, "new": FINE}
_GAPS_READ_BACK = {"missing": RB, "new": FINE}
_SLOW = {"slow": X, "deadline": X, "unreadable": X}
_THROTTLED = {"": RT, "beyond": X}
_AS_F25 = {"": LOOKS, "deadline": LATER, "inline": LATER}
_ELSEWHERE = {"": CLOSED, "blocking": CLOSED}

ROWS: Final = (
    Row("F01", "DNS failure", (RT, RT, RT1, _AGAIN_IN_THE_FIX), _NO_CONNECTION),
    Row("F02", "refused", (RT, RT, RT1, _AGAIN_IN_THE_FIX), _NO_CONNECTION),
    Row("F03", "connect timeout", (RT, RT, RT1, _AGAIN_IN_THE_FIX), _NO_CONNECTION),
    Row("F04", "bad certificate / wrong host", (NOT_SENT,) * 4, f"{_BEFORE}::test_nobody_to_be_trusted"),
    Row("F05", "TLS < 1.2", (NOT_SENT,) * 4, f"{_BEFORE}::test_a_protocol_of_the_past"),
    Row("F06", "pool wait timeout", (NOT_SENT,) * 4, f"{_BEFORE}::test_no_place_comes_free"),
    Row("F07", "limiter wait beyond deadline", (NOT_SENT,) * 4, f"{_BEFORE}::test_no_turn_before_the_deadline"),
    Row("F08", "circuit open", (NOT_SENT,) * 4, f"{_BEFORE}::test_the_circuit_is_open"),
    Row(
        "F09",
        "cancelled before headers sent",
        (GIVEN_UP,) * 4,
        {"async": f"{_BEFORE}::test_given_up_before_sending", "blocking": f"{_BEFORE}::test_closed_before_sending"},
    ),
    Row(
        "F10",
        "reset on reused idle connection (headers event seen)",
        (RT, RT, RB, U),
        f"{_SENT}::test_on_a_reused_connection",
    ),
    Row("F11", "reset/EOF after send, before status", (RT, RT, RB, U), f"{_SENT}::test_sent"),
    Row("F12", "write fails mid-body", (RT, RT, RB, U), f"{_SENT}::test_written_in_part"),
    Row(
        "F13",
        "read timeout / total deadline after send",
        ({"timeout": RT, "deadline": X}, RB, RB, U),
        f"{_SENT}::test_sent",
    ),
    Row(
        "F14",
        "cancelled after send (task cancel, asyncio.timeout, SIGINT, loop shutdown)",
        (GIVEN_UP,) * 4,
        f"{_GIVEN_UP}::test_interrupted_from_the_keyboard",
    ),
    Row("F15", "process killed after send", (NONE, NONE, NONE, PENDING), f"{_GIVEN_UP}::test_killed_after_sending"),
    Row("F16", "2xx, body truncated (Content-Length or chunk)", (RT, RB, RB, U), f"{_SENT}::test_sent"),
    Row(
        "F17",
        "2xx, invalid JSON / HTML page / wrong type / NaN / depth bomb",
        (ONCE, RB, RB, U),
        f"{_SENT}::test_sent",
    ),
    Row("F18", "2xx over size cap, decompression bomb", (X, RB, RB, U), f"{_SENT}::test_sent"),
    Row("F19", "2xx success:false", (X, X, X, LOOKS), f"{_SENT}::test_sent"),
    Row(
        "F20",
        "2xx valid but a required field missing or a new enum",
        (_GAPS, _GAPS_READ_BACK, _GAPS_READ_BACK, {"missing": CONFIRMED, "no keys": U, "new": FINE}),
        f"{_SENT}::test_answers_with_gaps",
    ),
    Row("F21", "401 first challenge", (ROUND,) * 4, f"{_REFUSED}::test_one_more_round_of_the_login"),
    Row("F22", "401 stale=true", (ROUND,) * 4, f"{_REFUSED}::test_one_more_round_of_the_login"),
    # For a completion, a 401 that is no challenge of the pinned realm is a gateway's: those with a challenge are F24.
    Row(
        "F23",
        "401 after correct digest",
        (X, X, X, {"": X, "bare": LOOKS}),
        f"{_REFUSED}::test_a_password_that_was_changed",
    ),
    # Another origin is never asked: redirects are not followed (F34).
    Row(
        "F24",
        "challenge weaker than pinned / Basic only / other origin / empty nonce",
        (X, X, X, LOOKS),
        f"{_REFUSED}::test_refused",
    ),
    Row("F25", "403 and every 4xx not named here", (X, X, {"": RBX, "key": X}, _AS_F25), f"{_REFUSED}::test_refused"),
    Row("F26", "404", (X, {"first": X, "second": FINE}, X, LOOKS), f"{_REFUSED}::test_refused"),
    Row("F27", "409", (X, RB, RB, LOOKS), f"{_REFUSED}::test_refused"),
    Row(
        "F28",
        "422 in the envelope / bare",
        (X, {"first": X, "second": X}, X, {"": RBX, "bare": LOOKS}),
        f"{_REFUSED}::test_refused",
    ),
    Row(
        "F29",
        "429 with Retry-After within deadline / beyond / absent",
        (_THROTTLED, _THROTTLED, RB, {"": LOOKS, "beyond": LATER}),
        f"{_REFUSED}::test_refused",
    ),
    Row("F30", "500", (RT, RT, RB, U), f"{_REFUSED}::test_refused"),
    Row("F31", "502 / 504", (RT, RT, RB, U), f"{_REFUSED}::test_refused"),
    Row("F32", "503 (+ Retry-After)", (RT, RT, RB, U), f"{_REFUSED}::test_refused"),
    Row("F33", "408 / 425", (RT, RT, RB, U), f"{_REFUSED}::test_refused"),
    Row("F34", "3xx any", (X, RB, RB, U), f"{_REFUSED}::test_refused"),
    Row(
        "F35",
        "endless 1xx, slow-loris headers/body, > 128 headers, > 8190 B line",
        (_SLOW, RB, RB, U),
        f"{_WIRE}::test_answers_without_end",
    ),
    Row(
        "F36",
        "two responses on one connection / response before the request",
        tuple({"two": code, "early": code} for code in (RT, RB, RB, U)),  # type: ignore[arg-type]
        f"{_WIRE}::test_two_answers",
    ),
    Row(
        "F37",
        "response for another customer or another token",
        (X, X, X, U),
        f"{_WIRE}::test_answers_about_somebody_else",
    ),
    Row(
        "F38",
        "duplicate call from a second task, same token",
        (APART, TURNS, TURNS, SHARED),
        {
            "R": f"{_TOGETHER}::test_two_reads_are_independent",
            "S": f"{_TOGETHER}::test_two_changes_go_one_after_the_other",
            "A": f"{_TOGETHER}::test_two_changes_go_one_after_the_other",
            "M": f"{_TOGETHER}::test_a_second_completion_gets_the_first_ones_result",
        },
    ),
    Row(
        "F39",
        "same token from a second process",
        (NONE, NONE, NONE, NOT_SENT),
        f"{_TOGETHER}::test_a_second_process_is_kept_out",
    ),
    Row("F40", "wall clock jumps +-1 h", (UNAFFECTED,) * 4, f"{_CLOCKS}::test_the_wall_clock_jumps"),
    Row("F41", "fork after client creation, used in the child", (CLOSED,) * 4, f"{_TOGETHER}::test_a_fork"),
    Row(
        "F42",
        "client used from another event loop",
        (_ELSEWHERE,) * 4,
        {"async": f"{_TOGETHER}::test_another_event_loop", "blocking": f"{_TOGETHER}::test_any_event_loop"},
    ),
    Row(
        "F43",
        "journal cannot be written (disk full, locked)",
        (NONE, NONE, NONE, NOT_SENT),
        f"{_CLOCKS}::test_nothing_is_sent_unwritten",
    ),
    Row(
        "F44",
        "read-back itself fails (any of the above)",
        (NONE, NONE, NONE, U),
        f"{_READ_BACK}::test_nothing_can_be_read",
    ),
    Row(
        "F45",
        "reads come from a replica or cache that is seconds behind, with each of F17-F35",
        (STALE, RB, RB, {"": LOOKS, "unknown": U, "time over": LATER}),
        {"R": f"{_LATE}::test_a_read_shows_an_older_state", "SAM": f"{_LATE}::test_reads_that_are_behind"},
    ),
    Row(
        "F46",
        "the server refuses at once and carries the work out later (queue)",
        (NONE, RB, RB, {"": LOOKS, "time over": LATER}),
        f"{_LATE}::test_carried_out_after_the_refusal",
    ),
    Row(
        "F47",
        "every idle pooled connection is dead at once (NAT, failover, thawed process)",
        (RT, RT, RB, RT),
        NOT_YET,
    ),
    Row(
        "F48",
        "the price lock restarts or re-prices between two reads",
        (NONE, NONE, NONE, {"same": FINE, "repriced": NOT_SENT}),
        f"{_CLOCKS}::test_the_price_lock_restarts",
    ),
    Row(
        "F49",
        "the journal's file is deleted, emptied or replaced while in use; a row cannot be read",
        (NONE, NONE, NONE, {"before": NOT_SENT, "returned": FINE, "unknown": U, "elsewhere": FINE, "row": PENDING}),
        f"{_LOST}::test_nothing_is_sent_with_a_lost_journal",
    ),
    Row(
        "F50",
        "several closers at once; a signal handler closes; two interrupts",
        (ENDED, ENDED, ENDED, {"": ENDED, "handler": ENDED, "twice": GIVEN_UP}),
        f"{_CLOSING}::test_several_closers",
    ),
    Row(
        "F51",
        "the machine slept (monotonic time stood still)",
        (NONE, NONE, NONE, {"slept": NOT_SENT, "ahead": NOT_SENT, "back": UNAFFECTED}),
        f"{_CLOCKS}::test_the_machine_sleeps",
    ),
    Row(
        "F52",
        "the process is stopped between prepare and the send, and goes on later",
        (NONE, NONE, NONE, {"wakes": NOT_SENT, "looks": PENDING, "fence": PENDING}),
        f"{_STOPPED}::test_a_stopped_process_goes_on_too_late",
    ),
)

_SECOND = "a refusal of the second attempt may mean that the first one was executed: read back before it fails"
_FIRST = "the first response is complete and belongs to the request; the connection is not reused"
_EARLY = "seen before the first byte leaves: provably not sent, so another connection will do"
_OWN_LOOP = "the blocking client brings its own loop: it works from wherever it is called"

DEVIATIONS: Final[Mapping[tuple[str, str, str], tuple[Outcome, str]]] = {
    ("F28", "S", "second"): (RB, _SECOND),
    ("F35", "R", "slow"): (RT, "late like any other response (F13): retried as long as the deadline allows"),
    ("F35", "R", "unreadable"): (ONCE, "a head that cannot be read is junk like a body (F17): asked once more"),
    ("F36", "R", "two"): (FINE, _FIRST),
    ("F36", "S", "two"): (FINE, _FIRST),
    ("F36", "A", "two"): (FINE, _FIRST),
    ("F36", "S", "early"): (RT, _EARLY),
    ("F36", "A", "early"): (RT1, _EARLY),
    ("F36", "M", "early"): (RT1, _EARLY),
    **{("F42", effect, "blocking"): (FINE, _OWN_LOOP) for effect in EFFECTS},
}
"""By row, effect and variant: what this client does instead, and why it is better."""

UNCOVERED: Final[Mapping[str, str]] = {
    "F47": "an attempt on a dead pooled connection still costs an attempt of the retry policy",
}
"""By row: the reason why its cells are not covered yet."""


TABLE: Final = {row.name: row for row in ROWS}


def outcome(row: str, effect: str, variant: str = "") -> Outcome:
    """Return the expected outcome of a fault, deviations included."""
    variants = TABLE[row].variants(effect)
    named = variant if variant in variants else ""
    deviation = DEVIATIONS.get((row, effect, named))
    return deviation[0] if deviation else variants[named]
