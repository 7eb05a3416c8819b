"""The fault matrix as data: the outcome of each fault for each kind of call, and the test that proves it.

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
    RT1 = "sent again once: provably nothing was executed"
    RB = "read back; the outcome is what the read-back shows"
    U = "OutcomeUnknown, settled by complete.reconcile"
    X = "the error, at once"
    RBX = "read back once, then the error"
    POLLED = "sent once, polled until the settle time, then the error"
    LATER = "OutcomeUnknown: the time for the read-back ended first; settled by complete.reconcile"
    NOT_SENT = "NotSent: nothing reached the server"
    CANCELLED = "the cancellation is raised, with a note if the request may have been executed"
    REAUTHENTICATED = "one more request with credentials, and no retry"
    ACCEPTED = "the response is accepted"
    CONFIRMED = "confirmed by the keys that can be read"
    PENDING = "found in pending() by the next process"
    INDEPENDENT = "both are executed, independently"
    SERIALISED = "one after the other"
    SHARED = "the second waits, and returns the result of the first"
    UNAFFECTED = "no effect"
    ENDED = "a typed error that names the request that may have been executed"
    CLOSED = "ClientClosedError with the reason, at once"
    STALE = "an older state is returned"
    NONE = "not applicable"


RT, ONCE, RT1, RB, U = Outcome.RT, Outcome.ONCE, Outcome.RT1, Outcome.RB, Outcome.U
X, RBX, NOT_SENT, CANCELLED, REAUTHENTICATED = (
    Outcome.X,
    Outcome.RBX,
    Outcome.NOT_SENT,
    Outcome.CANCELLED,
    Outcome.REAUTHENTICATED,
)
POLLED, LATER, STALE, ENDED = Outcome.POLLED, Outcome.LATER, Outcome.STALE, Outcome.ENDED
ACCEPTED, CONFIRMED, PENDING, UNAFFECTED = Outcome.ACCEPTED, Outcome.CONFIRMED, Outcome.PENDING, Outcome.UNAFFECTED
INDEPENDENT, SERIALISED, SHARED, CLOSED, NONE = (
    Outcome.INDEPENDENT,
    Outcome.SERIALISED,
    Outcome.SHARED,
    Outcome.CLOSED,
    Outcome.NONE,
)

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
_WIRE, _GIVEN_UP, _CONCURRENT = "test_on_the_wire.py", "test_given_up.py", "test_side_by_side.py"
_CLOCKS, _READ_BACK, _CLOSING = "test_clocks_and_journals.py", "test_read_back.py", "test_closing.py"
_LATE, _STOPPED, _LOST = "test_late.py", "test_stopped.py", "test_lost_journals.py"
_DEAD_POOL: Final = "test_dead_pool.py"
NOT_YET: Final = ""
"""The proof of a row that is not covered yet: `UNCOVERED` gives the reason."""
_NO_CONNECTION = f"{_BEFORE}::test_failed_connection_is_retried_or_raises"

_RETRY_DURING_PRICE_FIX = {"": RT1, "fix over": NOT_SENT}
_INCOMPLETE = {"missing": X, "new": ACCEPTED}
_INCOMPLETE_READ_BACK = {"missing": RB, "new": ACCEPTED}
_SLOW = {"slow": X, "deadline": X, "unreadable": X}
_THROTTLED = {"": RT, "beyond": X}
_AS_F25 = {"": POLLED, "deadline": LATER, "inline": LATER}
_OTHER_LOOP = {"": CLOSED, "blocking": CLOSED}

ROWS: Final = (
    Row("F01", "DNS failure", (RT, RT, RT1, _RETRY_DURING_PRICE_FIX), _NO_CONNECTION),
    Row("F02", "refused", (RT, RT, RT1, _RETRY_DURING_PRICE_FIX), _NO_CONNECTION),
    Row("F03", "connect timeout", (RT, RT, RT1, _RETRY_DURING_PRICE_FIX), _NO_CONNECTION),
    Row("F04", "bad certificate / wrong host", (NOT_SENT,) * 4, f"{_BEFORE}::test_untrusted_certificate_sends_nothing"),
    Row("F05", "TLS < 1.2", (NOT_SENT,) * 4, f"{_BEFORE}::test_tls_below_1_2_sends_nothing"),
    Row("F06", "pool wait timeout", (NOT_SENT,) * 4, f"{_BEFORE}::test_full_pool_sends_nothing"),
    Row(
        "F07",
        "limiter wait beyond deadline",
        (NOT_SENT,) * 4,
        f"{_BEFORE}::test_rate_limit_beyond_deadline_sends_nothing",
    ),
    Row("F08", "circuit open", (NOT_SENT,) * 4, f"{_BEFORE}::test_open_circuit_sends_nothing"),
    Row(
        "F09",
        "cancelled before headers sent",
        (CANCELLED,) * 4,
        {
            "async": f"{_BEFORE}::test_cancelled_handshake_sends_nothing",
            "blocking": f"{_BEFORE}::test_close_during_handshake_sends_nothing",
        },
    ),
    Row(
        "F10",
        "reset on reused idle connection (headers event seen)",
        (RT, RT, RB, U),
        f"{_SENT}::test_reset_of_reused_connection_has_expected_outcome",
    ),
    Row(
        "F11",
        "reset/EOF after send, before status",
        (RT, RT, RB, U),
        f"{_SENT}::test_failure_after_sending_has_expected_outcome",
    ),
    Row("F12", "write fails mid-body", (RT, RT, RB, U), f"{_SENT}::test_partly_written_request_has_expected_outcome"),
    Row(
        "F13",
        "read timeout / total deadline after send",
        ({"timeout": RT, "deadline": X}, RB, RB, U),
        f"{_SENT}::test_failure_after_sending_has_expected_outcome",
    ),
    Row(
        "F14",
        "cancelled after send (task cancel, asyncio.timeout, SIGINT, loop shutdown)",
        (CANCELLED,) * 4,
        f"{_GIVEN_UP}::test_sigint_after_sending_is_noted",
    ),
    Row(
        "F15",
        "process killed after send",
        (NONE, NONE, NONE, PENDING),
        f"{_GIVEN_UP}::test_killed_process_leaves_the_intent_pending",
    ),
    Row(
        "F16",
        "2xx, body truncated (Content-Length or chunk)",
        (RT, RB, RB, U),
        f"{_SENT}::test_failure_after_sending_has_expected_outcome",
    ),
    Row(
        "F17",
        "2xx, invalid JSON / HTML page / wrong type / NaN / depth bomb",
        (ONCE, RB, RB, U),
        f"{_SENT}::test_failure_after_sending_has_expected_outcome",
    ),
    Row(
        "F18",
        "2xx over size cap, decompression bomb",
        (X, RB, RB, U),
        f"{_SENT}::test_failure_after_sending_has_expected_outcome",
    ),
    Row("F19", "2xx success:false", (X, X, X, POLLED), f"{_SENT}::test_failure_after_sending_has_expected_outcome"),
    Row(
        "F20",
        "2xx valid but a required field missing or a new enum",
        (
            _INCOMPLETE,
            _INCOMPLETE_READ_BACK,
            _INCOMPLETE_READ_BACK,
            {"missing": CONFIRMED, "no keys": U, "new": ACCEPTED},
        ),
        f"{_SENT}::test_incomplete_response_has_expected_outcome",
    ),
    Row(
        "F21",
        "401 first challenge",
        (REAUTHENTICATED,) * 4,
        f"{_REFUSED}::test_challenge_is_answered_once_without_retry",
    ),
    Row("F22", "401 stale=true", (REAUTHENTICATED,) * 4, f"{_REFUSED}::test_challenge_is_answered_once_without_retry"),
    # For a completion, a 401 without a challenge of the pinned realm comes from a gateway; other challenges are F24.
    Row(
        "F23",
        "401 after correct digest",
        (X, X, X, {"": X, "bare": POLLED}),
        f"{_REFUSED}::test_changed_password_fails_after_two_requests",
    ),
    # No request goes to another origin: redirects are not followed (F34).
    Row(
        "F24",
        "challenge weaker than pinned / Basic only / other origin / empty nonce",
        (X, X, X, POLLED),
        f"{_REFUSED}::test_refusal_has_expected_outcome",
    ),
    Row(
        "F25",
        "403 and every 4xx not named here",
        (X, X, {"": RBX, "key": X}, _AS_F25),
        f"{_REFUSED}::test_refusal_has_expected_outcome",
    ),
    Row(
        "F26", "404", (X, {"first": X, "second": ACCEPTED}, X, POLLED), f"{_REFUSED}::test_refusal_has_expected_outcome"
    ),
    Row("F27", "409", (X, RB, RB, POLLED), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row(
        "F28",
        "422 in the envelope / bare",
        (X, {"first": X, "second": X}, X, {"": RBX, "bare": POLLED}),
        f"{_REFUSED}::test_refusal_has_expected_outcome",
    ),
    Row(
        "F29",
        "429 with Retry-After within deadline / beyond / absent",
        (_THROTTLED, _THROTTLED, RB, {"": POLLED, "beyond": LATER}),
        f"{_REFUSED}::test_refusal_has_expected_outcome",
    ),
    Row("F30", "500", (RT, RT, RB, U), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row("F31", "502 / 504", (RT, RT, RB, U), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row("F32", "503 (+ Retry-After)", (RT, RT, RB, U), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row("F33", "408 / 425", (RT, RT, RB, U), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row("F34", "3xx any", (X, RB, RB, U), f"{_REFUSED}::test_refusal_has_expected_outcome"),
    Row(
        "F35",
        "endless 1xx, slow-loris headers/body, > 128 headers, > 8190 B line",
        (_SLOW, RB, RB, U),
        f"{_WIRE}::test_endless_or_unreadable_response_fails",
    ),
    Row(
        "F36",
        "two responses on one connection / response before the request",
        tuple({"two": code, "early": code} for code in (RT, RB, RB, U)),  # type: ignore[arg-type]
        f"{_WIRE}::test_second_response_closes_the_connection",
    ),
    Row(
        "F37",
        "response for another customer or another token",
        (X, X, X, U),
        f"{_WIRE}::test_response_for_other_customer_is_refused",
    ),
    Row(
        "F38",
        "duplicate call from a second task, same token",
        (INDEPENDENT, SERIALISED, SERIALISED, SHARED),
        {
            "R": f"{_CONCURRENT}::test_two_reads_run_concurrently",
            "S": f"{_CONCURRENT}::test_two_changes_run_one_after_the_other",
            "A": f"{_CONCURRENT}::test_two_changes_run_one_after_the_other",
            "M": f"{_CONCURRENT}::test_second_completion_returns_result_of_the_first",
        },
    ),
    Row(
        "F39",
        "same token from a second process",
        (NONE, NONE, NONE, NOT_SENT),
        f"{_CONCURRENT}::test_completion_in_other_process_is_refused",
    ),
    Row("F40", "wall clock jumps +-1 h", (UNAFFECTED,) * 4, f"{_CLOCKS}::test_wall_clock_jump_changes_nothing"),
    Row(
        "F41",
        "fork after client creation, used in the child",
        (CLOSED,) * 4,
        f"{_CONCURRENT}::test_client_in_forked_child_is_refused",
    ),
    Row(
        "F42",
        "client used from another event loop",
        (_OTHER_LOOP,) * 4,
        {
            "async": f"{_CONCURRENT}::test_client_in_other_event_loop_is_refused",
            "blocking": f"{_CONCURRENT}::test_blocking_client_works_in_any_event_loop",
        },
    ),
    Row(
        "F43",
        "journal cannot be written (disk full, locked)",
        (NONE, NONE, NONE, NOT_SENT),
        f"{_CLOCKS}::test_unwritable_journal_sends_nothing",
    ),
    Row(
        "F44",
        "read-back itself fails (any of the above)",
        (NONE, NONE, NONE, U),
        f"{_READ_BACK}::test_failed_read_back_leaves_outcome_unknown",
    ),
    Row(
        "F45",
        "reads come from a replica or cache that is seconds behind, with each of F17-F35",
        (STALE, RB, RB, {"": POLLED, "unknown": U, "time over": LATER}),
        {
            "R": f"{_LATE}::test_lagging_read_returns_an_older_state",
            "SAM": f"{_LATE}::test_lagging_reads_show_the_change_in_the_last_poll",
        },
    ),
    Row(
        "F46",
        "the server refuses at once and executes the request later (queue)",
        (NONE, RB, RB, {"": POLLED, "time over": LATER}),
        f"{_LATE}::test_execution_after_refusal_is_found",
    ),
    Row(
        "F47",
        "every idle pooled connection is dead at once (NAT, failover, thawed process)",
        (RT, RT, RB, RT),
        {
            "RS": f"{_DEAD_POOL}::test_dead_pool_is_retried_over_a_new_connection",
            "A": f"{_DEAD_POOL}::test_dead_pool_is_read_back_over_new_connections",
            "M": f"{_DEAD_POOL}::test_dead_pool_does_not_stop_a_purchase",
        },
    ),
    Row(
        "F48",
        "the price lock restarts or re-prices between two reads",
        (NONE, NONE, NONE, {"same": ACCEPTED, "repriced": NOT_SENT}),
        f"{_CLOCKS}::test_restarted_price_lock_at_same_price_is_bought",
    ),
    Row(
        "F49",
        "the journal's file is deleted, emptied or replaced while in use; a row cannot be read",
        (
            NONE,
            NONE,
            NONE,
            {"before": NOT_SENT, "returned": ACCEPTED, "unknown": U, "elsewhere": ACCEPTED, "row": PENDING},
        ),
        f"{_LOST}::test_journal_lost_before_purchase_sends_nothing",
    ),
    Row(
        "F50",
        "several closes at once; a signal handler closes; two interrupts",
        (ENDED, ENDED, ENDED, {"": ENDED, "handler": ENDED, "twice": CANCELLED}),
        f"{_CLOSING}::test_concurrent_closes_name_the_intent",
    ),
    Row(
        "F51",
        "the machine slept (monotonic time did not advance)",
        (NONE, NONE, NONE, {"slept": NOT_SENT, "ahead": NOT_SENT, "back": UNAFFECTED}),
        f"{_CLOCKS}::test_machine_sleep_after_prepare_expires_the_price_fix",
    ),
    Row(
        "F52",
        "the process is stopped between prepare and the send, and continues later",
        (NONE, NONE, NONE, {"continued": NOT_SENT, "polls": PENDING, "fence": PENDING}),
        f"{_STOPPED}::test_process_continued_too_late_sends_nothing",
    ),
)

_SECOND = "a refusal of the second attempt may mean that the first one was executed: read back before the call fails"
_FIRST = "the first response is complete and belongs to the request; the connection is not reused"
_EARLY = "detected before the first byte is sent: provably not sent, so another connection is used"
_OWN_LOOP = "the blocking client has its own loop, so it works in any thread and any event loop"

DEVIATIONS: Final[Mapping[tuple[str, str, str], tuple[Outcome, str]]] = {
    ("F28", "S", "second"): (RB, _SECOND),
    ("F35", "R", "slow"): (RT, "late like any other response (F13): retried until the deadline"),
    ("F35", "R", "unreadable"): (
        ONCE,
        "a head that cannot be parsed is handled like an invalid body (F17): sent again once",
    ),
    ("F36", "R", "two"): (ACCEPTED, _FIRST),
    ("F36", "S", "two"): (ACCEPTED, _FIRST),
    ("F36", "A", "two"): (ACCEPTED, _FIRST),
    ("F36", "S", "early"): (RT, _EARLY),
    ("F36", "A", "early"): (RT1, _EARLY),
    ("F36", "M", "early"): (RT1, _EARLY),
    **{("F42", effect, "blocking"): (ACCEPTED, _OWN_LOOP) for effect in EFFECTS},
}
"""By row, effect and variant: the outcome of this client where it differs, and the reason."""

UNCOVERED: Final[Mapping[str, str]] = {}
"""By row: the reason why its cells are not covered yet."""


TABLE: Final = {row.name: row for row in ROWS}


def outcome(row: str, effect: str, variant: str = "") -> Outcome:
    """Return the expected outcome of a fault, deviations included."""
    variants = TABLE[row].variants(effect)
    named = variant if variant in variants else ""
    deviation = DEVIATIONS.get((row, effect, named))
    return deviation[0] if deviation else variants[named]
