"""The statements about a safe money client. `@pytest.mark.requirement(n)` marks a test that proves statement n.

`pytest --requirement N` runs the tests of one statement.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NOXFILE = TESTS.parent / "noxfile.py"

STATEMENTS: dict[int, str] = {
    1: "safe reads retried by default",
    2: "randomised backoff, full jitter",
    3: "Retry-After: seconds, HTTP date, garbage",
    4: "Retry-After capped, or fails at once beyond the deadline",
    5: "a veto of the server is respected",
    6: "a retry budget shared per client",
    7: "a client-side rate limiter",
    8: "one deadline over attempts, waits and digest",
    9: "each attempt gets min(own, remaining)",
    10: "finite default timeouts, separate pool, connect, read, total",
    11: "not sent and maybe executed told apart by phase",
    12: "a POST that repeats its effect is never blindly sent again",
    13: "the key is fixed before the first try, and persisted",
    14: "look-up or void by that key after an unknown outcome",
    15: "a typed unknown outcome that carries the intent",
    16: "a write-ahead journal, recovery after kill -9",
    17: "cancelled after sending: unknown, recorded, re-raised",
    18: "a price guard before, a check after",
    19: "the price lock on a monotonic clock, with a margin",
    20: "clock skew from Date, for search windows only",
    21: "money calls are not starved: own connections, a lane for reconciling",
    22: "the breaker fails before sending; reconciling passes it",
    23: "a full pool is a typed, fast, not-sent error",
    24: "no connection leaks on error, cancel or 401",
    25: "fork: a clear error, never a hang",
    26: "another loop or thread works, or is a clear error",
    27: "redirects are never followed",
    28: "TLS from 1.2, checking not switchable by environment, http to loopback only",
    29: "digest: the strongest, pinned, no Basic, bound to its origin",
    30: "digest: one challenge at a time, stale once, 401 twice is a failure",
    31: "no secret in log, repr, str, pickle, local variables of ours",
    32: "logs are an allow-list",
    33: "personal data masked in reprs and errors",
    34: "errors hold neither body nor headers unless asked",
    35: "header and URL injection refused before sending",
    36: "response cap after decompression, depth cap, NaN refused",
    37: "money never passes a float",
    38: "unknown fields and words tolerated, missing ones fail typed",
    39: "every failure in one documented tree; the cause kept without leaking",
    40: "request id and attempt count on results and errors",
    41: "leak tests in the land gate, and a soak that runs as long as one likes",
    42: "faults injected at the socket",
    43: "property-based, stateful and fuzz tests",
    44: "py.typed, and every public type known",
    45: "one POST per completion, under every fault and policy, 401 challenges excepted",
    46: "no refusal is believed too early",
    47: "a reference is completed at most once, over baskets, processes, restarts and concurrent starts",
    48: "the journal knows server and account; intents of others are neither read back nor fenced",
    49: "a journal that vanished, or a record that cannot be read, is noticed and named",
    50: "any number of closers and signals, in any order",
    51: "a dead pool costs one attempt, not all of them",
    52: "what cannot be misread is tolerated, one odd row costs one row; money, identity and status never",
    53: "every fault that a server, a proxy or a network can cause is a mode of the sandbox",
    54: "orders, journal and wallet can be audited against each other by one command",
    55: "the text of an unknown outcome says what was seen, how sure that is, and what to do next",
}
TYPED = 44
"""Proved by the nox session `typing`, not by a test."""


@cache
def asserting(file: Path) -> dict[str, bool]:
    """The tests of a file, and whether each checks anything by itself or through a function of the tests."""
    tree = ast.parse(file.read_text("utf-8"))
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]

    def checks(function: ast.AST) -> bool:
        names = {one.id for one in ast.walk(function) if isinstance(one, ast.Name)}
        names |= {one.attr for one in ast.walk(function) if isinstance(one, ast.Attribute)}
        return any(isinstance(one, ast.Assert) for one in ast.walk(function)) or bool(names & {"raises", "fail"})

    helpers = {one.name for one in functions if not one.name.startswith("test_") and checks(one)}
    imported = {
        alias.asname or alias.name
        for one in ast.walk(tree)
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("tests")
        for alias in one.names
    }

    def calls(function: ast.AST) -> set[str]:
        called = (one.func for one in ast.walk(function) if isinstance(one, ast.Call))
        return {one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in called}

    return {
        one.name: checks(one) or bool(calls(one) & (helpers | imported))
        for one in functions
        if one.name.startswith("test_")
    }


def requirements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    """The numbers in the marks of a test."""
    calls = (one for one in function.decorator_list if isinstance(one, ast.Call))
    marks = [one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "requirement"]
    return {argument.value for one in marks for argument in one.args if isinstance(argument, ast.Constant)}


@cache
def proofs() -> dict[int, list[tuple[Path, str]]]:
    """The marked tests of each statement."""
    found: dict[int, list[tuple[Path, str]]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for one in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                for number in requirements(one):
                    found.setdefault(number, []).append((file, one.name))
    return found


def test_no_statement_is_missing():
    # 56 belongs to what is not built yet.
    assert list(STATEMENTS) == [*range(1, 56)]


def test_every_mark_names_a_statement():
    assert set(proofs()) == set(STATEMENTS) - {TYPED}


@pytest.mark.parametrize("number", sorted(set(STATEMENTS) - {TYPED}))
def test_each_statement_is_proved_by_tests_that_can_fail(number: int):
    for file, name in proofs()[number]:
        assert asserting(file)[name], f"{STATEMENTS[number]}: {file.name}::{name} checks nothing"


def test_the_types_are_checked_by_a_session():
    source = NOXFILE.read_text("utf-8")
    assert '"--verifytypes", "minted_connect"' in source
    assert "minted_connect/py.typed" in source
