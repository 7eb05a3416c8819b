"""The file of an SQLite journal: read-only queries, hard links, mounts, and names that are not paths."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect, MintedConnect
from minted_connect.errors import ConfigurationError, JournalError
from minted_connect.journal import open_journal, sqlite_file
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.journal.sqlite_schema import STEPS
from minted_connect.models import IntentState
from tests.completion.fakes import intent_of
from tests.completion.processes import ROOT, run_together, start_child
from tests.completion.test_journal import create_version_1

pytestmark = pytest.mark.anyio


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


# --- queries -------------------------------------------------------------------------------------------------------


async def query_all(journal: SqliteJournal) -> list[Any]:
    found = [await journal.pending(), await journal.awaiting_completion()]
    return [*found, await journal.find_active("a", "b"), await journal.get("c")]


async def test_queries_create_no_file(tmp_path: Path) -> None:
    assert await query_all(SqliteJournal(tmp_path / "journal.db")) == [[], [], None, None]
    assert await query_all(SqliteJournal(tmp_path / "nowhere" / "journal.db")) == [[], [], None, None]
    (tmp_path / "empty.db").touch()
    assert await query_all(SqliteJournal(tmp_path / "empty.db")) == [[], [], None, None]
    assert names(tmp_path) == ["empty.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0


async def test_file_missing_at_a_query_can_be_created_later(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    assert await journal.pending() == []
    await journal.prepare(intent_of())
    assert await journal.pending() == [intent_of()]


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_queries_do_not_migrate_an_older_schema(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.db"
    create_version_1(path)
    with closing(sqlite3.connect(path)) as database:
        for statement in ";".join(STEPS[1:version]).split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    before = path.read_bytes()
    journal = SqliteJournal(path)
    expected = intent_of(id="open", cart_token="open", state=IntentState.UNKNOWN)
    assert await journal.pending() == [expected]
    assert await journal.get("open") == expected
    assert await journal.find_active(expected.external_customer_id, "open", account="mine") == expected
    assert [intent.order_id for intent in await journal.awaiting_completion()] == [10984]
    assert path.read_bytes() == before
    await journal.settle("open", IntentState.REJECTED)
    assert await journal.pending() == []


async def test_queries_work_while_another_process_writes(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db", patience=0.05)
    await journal.prepare(intent_of())
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert await journal.pending() == [intent_of()]


READER = """
import asyncio, sys
from minted_connect.journal.sqlite import SqliteJournal
from minted_connect.errors import JournalError
try:
    print([intent.id for intent in asyncio.run(SqliteJournal(sys.argv[1]).pending())])
except JournalError as error:
    print(error)
"""


@pytest.fixture
def read_only() -> Iterator[Callable[[bool], str]]:
    """Return a function that lists a journal in a directory that is not writable, with or without a log."""
    # Not pytest's tmp_path, which other users cannot access.
    folder = Path(tempfile.mkdtemp(prefix="journal-"))
    path = folder / "journal.db"

    def read(log: bool) -> str:
        asyncio.run(SqliteJournal(path).prepare(intent_of()))
        if log:
            Path(f"{path}-wal").write_bytes(b"")
        path.chmod(0o444)
        if log:
            Path(f"{path}-wal").chmod(0o400)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0  # root can write every directory
        if is_root:
            os.seteuid(65534)
        try:
            return str([intent.id for intent in asyncio.run(SqliteJournal(path).pending())])
        except JournalError as error:
            return str(error)
        finally:
            if is_root:
                os.seteuid(0)

    yield read
    folder.chmod(0o700)
    shutil.rmtree(folder)


def test_journal_in_a_read_only_directory_is_readable(read_only: Callable[[bool], str]) -> None:
    assert read_only(False) == f"['{intent_of().id}']"


@pytest.mark.skipif(os.geteuid() != 0, reason="the owner of the log can read it")
def test_unreadable_log_raises_an_error_that_names_it(read_only: Callable[[bool], str]) -> None:
    message = read_only(True)
    assert "cannot be read: its directory cannot be written, and" in message
    assert "-wal may hold its latest records" in message


# --- hard links ----------------------------------------------------------------------------------------------------


@pytest.fixture
def short_create_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_CREATE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("short_create_timeout")
async def test_hard_linked_file_is_rejected_under_both_names(tmp_path: Path) -> None:
    paths = [tmp_path / "journal.db", tmp_path / "link.db"]
    await SqliteJournal(paths[0]).prepare(intent_of())
    paths[1].hardlink_to(paths[0])
    before = paths[0].read_bytes()
    for path in paths:
        journal = SqliteJournal(path)
        for call in (journal.pending, partial(journal.prepare, intent_of(id="second")), journal.awaiting_completion):
            with pytest.raises(JournalError, match=r"has 2 names \(hard links\).*remove the others") as caught:
                await call()
            assert str(path) in str(caught.value)
    assert paths[0].read_bytes() == before
    paths[1].unlink()
    assert await SqliteJournal(paths[0]).pending() == [intent_of()]


@pytest.mark.usefixtures("short_create_timeout")
async def test_file_is_usable_again_without_its_hard_link(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.prepare(intent_of())
    (tmp_path / "link.db").hardlink_to(journal.path)
    with pytest.raises(JournalError, match="hard links"):
        await journal.prepare(intent_of(id="second", cart_token="second"))
    (tmp_path / "link.db").unlink()
    await journal.prepare(intent_of(id="second", cart_token="second"))


async def test_query_waits_for_the_temporary_link_of_a_new_file(tmp_path: Path) -> None:
    path, temporary = tmp_path / "journal.db", tmp_path / ".minted-temporary"
    await SqliteJournal(path).prepare(intent_of())
    temporary.hardlink_to(path)
    timer = threading.Timer(0.1, temporary.unlink)
    timer.start()
    assert await SqliteJournal(path).pending() == [intent_of()]
    timer.join()


@pytest.mark.usefixtures("short_create_timeout")
async def test_temporary_link_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    path, temporary = tmp_path / "journal.db", tmp_path / ".minted-temporary"
    await SqliteJournal(path).prepare(intent_of())
    temporary.hardlink_to(path)
    (tmp_path / ".minted-other").touch()
    assert await SqliteJournal(path).pending() == [intent_of()]
    assert ".minted-other" in names(tmp_path)
    assert ".minted-temporary" not in names(tmp_path)


async def test_symbolic_links_are_the_same_journal(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "directory").symlink_to(tmp_path / "data")
    (tmp_path / "link.db").symlink_to(tmp_path / "data" / "journal.db")
    for number, name in enumerate(("data/journal.db", "directory/journal.db", "link.db")):
        await SqliteJournal(tmp_path / name).prepare(intent_of(id=str(number), cart_token=str(number)))
        assert len(await SqliteJournal(tmp_path / name).pending()) == number + 1


def write_mountinfo(path: Path, where: str) -> None:
    """Write a list of mounts that contains this path."""
    escaped = str(path).replace(" ", "\\040")
    text = (
        f"22 1 0:20 / / rw - overlay overlay rw\n99 22 0:20 /x {where.format(escaped)} rw,relatime - ext4 /dev/x rw\n"
    )
    path.with_name("mountinfo").write_text(text)


@pytest.mark.parametrize("where", ["{}", "{}-wal", "/elsewhere"])
async def test_file_mounted_alone_is_rejected(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "the journal.db"
    await SqliteJournal(path).prepare(intent_of())
    (tmp_path / "link.db").symlink_to(path)
    write_mountinfo(path, where)
    monkeypatch.setattr(sqlite_file, "_MOUNTINFO", tmp_path / "mountinfo")
    for name in (path, tmp_path / "link.db"):
        if where == "{}":
            for call in (SqliteJournal(name).pending, partial(SqliteJournal(name).prepare, intent_of(id="2"))):
                with pytest.raises(JournalError, match=r"mounted as a single file.*mount the directory"):
                    await call()
        else:
            assert await SqliteJournal(name).pending() == [intent_of()]


def test_real_mount_is_rejected(tmp_path: Path) -> None:
    path, other = tmp_path / "journal.db", tmp_path / "mounted.db"
    asyncio.run(SqliteJournal(path).prepare(intent_of()))
    other.touch()
    mount = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", path, other]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*mount, sys.executable, "-c", READER, other], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "Operation not permitted" in done.stderr:
        pytest.skip("mounting needs privileges")
    assert "is mounted as a single file" in done.stdout, done.stderr


async def test_processes_creating_one_file_all_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.db"
    body = """
    del os.mknod
    print("ready", flush=True); sys.stdin.readline()
    await journal.prepare(intent_of(id=sys.argv[2], cart_token=sys.argv[2]))
    """
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        assert run_together([start_child(body.strip(), path, str(number)) for number in range(4)]) == [""] * 4
        assert len(await SqliteJournal(path).pending()) == 4


# --- names that are not paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (":memory:", "for a journal in memory leave `journal` out"),
        (":MEMORY:", "for a journal in memory leave `journal` out"),
        ("file::memory:?cache=shared", "for a journal in memory leave `journal` out"),
        (Path(":memory:"), "for a journal in memory leave `journal` out"),
        ("file:journal.db?mode=ro", "not a URI: give the path alone"),
        ("FILE:/tmp/journal.db", "not a URI: give the path alone"),
        ("sqlite:///journal.db", "for SQLite give the path alone"),
        ("sqlite:///:memory:", "for SQLite give the path alone"),
    ],
)
@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect, None])
def test_names_that_sqlite_reserves_are_rejected(
    name: Any, message: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^journal: must be ") as caught:
        open_journal(name) if client is None else client("partner", "secret", journal=name)
    assert message in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("client", [AsyncMintedConnect, MintedConnect])
def test_link_into_a_missing_directory_is_rejected(client: Any, tmp_path: Path) -> None:
    link = tmp_path / "journal.db"
    link.symlink_to(tmp_path / "volume" / "journal.db")
    with pytest.raises(ConfigurationError, match="in a directory that exists"):
        client("partner", "secret", journal=link)


async def test_link_whose_directory_disappears_raises_an_error(tmp_path: Path) -> None:
    link = tmp_path / "journal.db"
    link.symlink_to(tmp_path / "volume" / "journal.db")
    (tmp_path / "volume").mkdir()
    assert await SqliteJournal(link).pending() == []
    (tmp_path / "volume").rmdir()
    for query in (SqliteJournal(link).pending, SqliteJournal(link).awaiting_completion):
        with pytest.raises(JournalError, match="cannot be opened or created"):
            await query()


def test_sqlite_journal_rejects_a_reserved_name() -> None:
    with pytest.raises(ConfigurationError, match="leave `journal` out"):
        SqliteJournal(":memory:")
