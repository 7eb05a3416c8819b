"""`reconcile --intent` with an intent that is not found: exit code 2, and no claim that nothing was bought."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from minted_connect.__main__ import main
from minted_connect.sandbox import ThreadedSandbox

INTENT = "11111111-2222-3333-4444-555555555555"
WARNING = (
    "The purchase may be in another journal, and it may have been executed: give the --journal that it was written to"
)


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(sandbox: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINTED_CONNECT_USERNAME", sandbox.username)
    monkeypatch.setenv("MINTED_CONNECT_PASSWORD", sandbox.password)
    monkeypatch.setenv("MINTED_CONNECT_BASE_URL", sandbox.url)
    monkeypatch.delenv("MINTED_CONNECT_JOURNAL", raising=False)


@pytest.mark.parametrize("arguments", [(), ("--list",), ("--decide", "not_executed"), ("--fence",), ("--json",)])
def test_intent_that_no_journal_has_exits_2(
    tmp_path: Path, sandbox: ThreadedSandbox, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    journal = tmp_path / "journal.db"
    journal.touch()
    assert main(["reconcile", "--journal", str(journal), "--intent", INTENT, *arguments]) == 2
    printed = capsys.readouterr()
    reason = f"the journal {journal} does not have it"
    assert printed.out == ""
    assert printed.err == f"minted_connect: intent: {INTENT} was not found: {reason}. {WARNING}\n"
    assert not sandbox.requests


def test_intent_of_a_journal_that_is_missing_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal.db"
    assert main(["reconcile", "--journal", str(journal), "--intent", INTENT]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"minted_connect: intent: {INTENT} was not found: there is no file {journal}. {WARNING}\n"
    assert not journal.exists()
