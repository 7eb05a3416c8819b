"""Journals with references: which intents they find, and which they refuse to store."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from minted_connect.errors import AlreadyInFlight, ConfigurationError, JournalError
from minted_connect.journal import memory, open_journal
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal, JournalAccount, ReferenceJournal, ReferenceKey
from minted_connect.models import Intent, IntentState
from tests.completion.fakes import intent_of

REFERENCE = "plan/2026-11/customer-1"
MINE = JournalAccount("server", "mine")
OTHER = JournalAccount("server", "other")
NAMED = JournalAccount("server", "named")


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    if request.param == "memory":
        opened: Journal = MemoryJournal()
    else:
        path = tmp_path / "j.db"
        opened = open_journal(path if request.param == "sqlite" else request.getfixturevalue("database").url)
    yield opened
    await opened.aclose()


def named(intent_id: str, owner: JournalAccount = MINE, **changes: Any) -> Intent:
    """Return an intent with a reference and a basket of its own."""
    defaults = {"reference": REFERENCE, "terms": "{}", "cart_token": intent_id, "state": IntentState.PREPARED}
    return intent_of(id=intent_id, server=owner.server, account=owner.account, **{**defaults, **changes})


def key(owner: JournalAccount = MINE, reference: str = REFERENCE, unnamed: str | None = None) -> ReferenceKey:
    return ReferenceKey(reference, owner, unnamed or owner.account)


@pytest.mark.requirement(47)
@pytest.mark.parametrize("state", [IntentState.PREPARED, IntentState.UNKNOWN, IntentState.CONFIRMED])
async def test_prepare_with_active_reference_raises_already_in_flight(journal, state):
    await journal.prepare(named("first"), key=key())
    if state != IntentState.PREPARED:
        await journal.settle("first", state, order_id=10984)
    with pytest.raises(AlreadyInFlight, match="this reference") as caught:
        await journal.prepare(named("second"), key=key(), known=["first"])
    assert caught.value.intent_id == "first"
    assert await journal.get("second") is None


@pytest.mark.parametrize("state", [IntentState.REJECTED, IntentState.NOT_SENT, IntentState.NOT_EXECUTED])
async def test_prepare_after_failed_attempt_is_accepted(journal, state):
    await journal.prepare(named("first"), key=key())
    await journal.settle("first", state)
    await journal.prepare(named("second"), key=key(), known=["first"])
    found = await journal.find_by_reference(key())
    assert [(intent.id, intent.state) for intent in found] == [("first", state), ("second", IntentState.PREPARED)]
    assert found[1] == named("second")


@pytest.mark.requirement(47)
async def test_prepare_beside_an_attempt_that_was_not_searched_raises(journal):
    await journal.prepare(named("first"), key=key())
    await journal.settle("first", IntentState.NOT_EXECUTED)
    with pytest.raises(AlreadyInFlight, match="meanwhile") as caught:
        await journal.prepare(named("second"), key=key(), known=["another"])
    assert caught.value.intent_id == "first"


@pytest.mark.requirement(47)
async def test_prepare_after_late_confirmation_of_older_attempt_raises(journal):
    await journal.prepare(named("first"), key=key())
    await journal.settle("first", IntentState.NOT_EXECUTED)
    await journal.settle("first", IntentState.CONFIRMED, order_id=10984)
    with pytest.raises(AlreadyInFlight, match="it is order 10984"):
        await journal.prepare(named("second"), key=key(), known=["first"])


async def test_references_of_named_accounts_are_separate(journal):
    await journal.prepare(named("mine"), key=key())
    await journal.prepare(named("named", NAMED), key=key(NAMED, unnamed="partner"))
    for one, intent_id in ((key(), "mine"), (key(NAMED, unnamed="partner"), "named")):
        [found] = await journal.find_by_reference(one)
        assert found.id == intent_id
    assert await journal.find_by_reference(key(reference="another")) == []


@pytest.mark.requirement(47)
async def test_reference_of_another_user_raises_configuration_error(journal):
    await journal.prepare(named("mine"), key=key())
    await journal.settle("mine", IntentState.CONFIRMED)
    with pytest.raises(ConfigurationError, match=r"\(intents mine\): set Options.journal_account"):
        await journal.prepare(named("other", OTHER), key=key(OTHER))
    await journal.prepare(named("other", OTHER), key=key(OTHER, reference="another"))


@pytest.mark.requirement(47)
async def test_intents_from_before_the_account_was_named_count(journal):
    await journal.prepare(named("mine"), key=key())
    await journal.settle("mine", IntentState.CONFIRMED)
    [found] = await journal.find_by_reference(key(NAMED, unnamed=MINE.account))
    assert found.id == "mine"
    with pytest.raises(AlreadyInFlight, match="this reference was completed already"):
        await journal.prepare(named("second", NAMED), key=key(NAMED, unnamed=MINE.account), known=["mine"])


async def test_find_other_references_names_those_of_other_users(journal):
    await journal.prepare(named("mine"), key=key())
    await journal.prepare(named("plain", OTHER, reference=None, terms=None))
    assert await journal.find_other_references(key()) == []
    assert await journal.find_other_references(key(OTHER)) == ["mine"]
    assert await journal.find_other_references(key(OTHER), same=True) == ["mine"]
    assert await journal.find_other_references(key(OTHER, reference="another"), same=True) == []
    assert await journal.find_other_references(key(JournalAccount("elsewhere", "other"))) == []
    await journal.adopt("mine", OTHER)
    assert await journal.find_other_references(key(OTHER)) == []
    [adopted] = await journal.find_by_reference(key(OTHER))
    assert adopted.id == "mine"


async def test_decision_is_stored(journal):
    await journal.prepare(named("mine"), key=key())
    await journal.settle("mine", IntentState.NOT_EXECUTED)
    await journal.record_decision("mine", intent_of().created_at)
    [found] = await journal.find_by_reference(key())
    assert found.decided_at == intent_of().created_at


@pytest.mark.requirement(47)
async def test_concurrent_prepare_of_one_reference_succeeds_once(journal_location):
    journals = [open_journal(journal_location) for _ in range(6)]
    prepared = [one.prepare(named(f"intent-{number}"), key=key()) for number, one in enumerate(journals)]
    results = await asyncio.gather(*prepared, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [AlreadyInFlight] * 5
    [stored] = await journals[0].find_by_reference(key())
    assert results[int(stored.id.removeprefix("intent-"))] is None
    for one in journals:
        await one.aclose()


async def test_unreadable_record_of_a_reference_raises_journal_error(tmp_path):
    journal = open_journal(tmp_path / "j.db")
    await journal.prepare(named("first"), key=key())
    await journal.settle("first", IntentState.NOT_SENT)
    assert isinstance(journal, ReferenceJournal)
    for change in ("items = 'none'", "items = '[]', terms = '[]'", "terms = NULL"):
        with closing(sqlite3.connect(tmp_path / "j.db")) as database, database:
            database.execute(f"UPDATE intents SET {change}")
        for call in (journal.find_by_reference(key()), journal.prepare(named("second"), key=key(), known=["first"])):
            with pytest.raises(JournalError, match=r"cannot be read: intent first\. Nothing is sent for its reference"):
                await call
    await journal.aclose()


class OverlappingJournal(MemoryJournal):
    """Each `prepare` waits, after its look for the reference, until that of another thread has looked, too."""

    def __init__(self) -> None:
        super().__init__()
        self._both = threading.Barrier(2)

    async def find_by_reference(self, key: ReferenceKey) -> list[Intent]:
        found = await super().find_by_reference(key)
        with suppress(threading.BrokenBarrierError):
            self._both.wait(0.5)
        return found


@pytest.mark.requirement(47)
def test_memory_stores_one_intent_of_two_threads():
    journal = OverlappingJournal()
    outcomes: list[str] = []

    def prepare(intent_id: str) -> None:
        try:
            asyncio.run(journal.prepare(named(intent_id), key=key()))
        except AlreadyInFlight:
            outcomes.append("refused")
        else:
            outcomes.append("stored")

    threads = [threading.Thread(target=prepare, args=(intent_id,)) for intent_id in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused", "stored"]


async def test_memory_keeps_references_beyond_its_limit(monkeypatch, caplog):
    monkeypatch.setattr(memory, "_MAX_CLOSED", 2)
    journal = MemoryJournal()
    for number in range(5):
        await journal.prepare(named(f"named-{number}", reference=f"r-{number}"), key=key(reference=f"r-{number}"))
        await journal.settle(f"named-{number}", IntentState.CONFIRMED)
        await journal.prepare(named(f"plain-{number}", reference=None, terms=None))
        await journal.settle(f"plain-{number}", IntentState.CONFIRMED)
    kept = [f"plain-{number}" for number in range(5) if await journal.get(f"plain-{number}")]
    assert kept == ["plain-3", "plain-4"]
    assert all([await journal.find_by_reference(key(reference=f"r-{number}")) for number in range(5)])
    assert len([record for record in caplog.records if "keeps all references" in record.message]) == 1
