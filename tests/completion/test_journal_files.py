"""The file of a journal: listing opens it read-only, a second name is refused, and what is no path is named."""

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
from tests.completion.processes import ROOT, child, together
from tests.completion.test_journal import of_version_1

pytestmark = pytest.mark.anyio


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.iterdir())


# --- Listing -----------------------------------------------------------------------------------------------------


async def lists(journal: SqliteJournal) -> list[Any]:
    found = [await journal.pending(), await journal.awaiting_completion()]
    return [*found, await journal.find_active("a", "b"), await journal.get("c")]


async def test_listing_makes_no_file(tmp_path: Path) -> None:
    assert await lists(SqliteJournal(tmp_path / "journal.db")) == [[], [], None, None]
    assert await lists(SqliteJournal(tmp_path / "nowhere" / "journal.db")) == [[], [], None, None]
    (tmp_path / "empty.db").touch()
    assert await lists(SqliteJournal(tmp_path / "empty.db")) == [[], [], None, None]
    assert names(tmp_path) == ["empty.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0


async def test_a_file_that_was_only_missed_may_be_made_later(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    assert await journal.pending() == []
    await journal.prepare(intent_of())
    assert await journal.pending() == [intent_of()]


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_listing_takes_over_no_older_schema(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.db"
    of_version_1(path)
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


async def test_listing_goes_on_while_another_process_writes(tmp_path: Path) -> None:
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
    """A function that lists a journal in a directory that the reader cannot write, with a log beside it or without."""
    # Not pytest's tmp_path, which is closed to other users.
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
        is_root = os.geteuid() == 0  # to whom no directory is read-only
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


def test_a_directory_that_cannot_be_written_is_read(read_only: Callable[[bool], str]) -> None:
    assert read_only(False) == f"['{intent_of().id}']"


@pytest.mark.skipif(os.geteuid() != 0, reason="as its owner, it reads the log")
def test_a_log_that_cannot_be_read_is_an_error_that_says_so(read_only: Callable[[bool], str]) -> None:
    said = read_only(True)
    assert "cannot be read: its directory cannot be written, and" in said
    assert "-wal may hold its latest records" in said


# --- Two names ---------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "_CREATE_TIMEOUT", 0.05)


@pytest.mark.usefixtures("hurried")
async def test_a_hard_link_is_refused_under_both_names(tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("hurried")
async def test_a_refused_file_is_usable_again_with_one_name(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "journal.db")
    await journal.prepare(intent_of())
    (tmp_path / "link.db").hardlink_to(journal.path)
    with pytest.raises(JournalError, match="hard links"):
        await journal.prepare(intent_of(id="second", cart_token="second"))
    (tmp_path / "link.db").unlink()
    await journal.prepare(intent_of(id="second", cart_token="second"))


async def test_the_second_name_of_a_file_being_made_is_waited_for(tmp_path: Path) -> None:
    path, draft = tmp_path / "journal.db", tmp_path / ".minted-draft"
    await SqliteJournal(path).prepare(intent_of())
    draft.hardlink_to(path)
    timer = threading.Timer(0.1, draft.unlink)
    timer.start()
    assert await SqliteJournal(path).pending() == [intent_of()]
    timer.join()


@pytest.mark.usefixtures("hurried")
async def test_the_name_that_a_killed_process_left_behind_is_removed(tmp_path: Path) -> None:
    path, draft = tmp_path / "journal.db", tmp_path / ".minted-draft"
    await SqliteJournal(path).prepare(intent_of())
    draft.hardlink_to(path)
    (tmp_path / ".minted-other").touch()
    assert await SqliteJournal(path).pending() == [intent_of()]
    assert ".minted-other" in names(tmp_path)
    assert ".minted-draft" not in names(tmp_path)


async def test_symbolic_links_are_the_same_journal(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "directory").symlink_to(tmp_path / "data")
    (tmp_path / "link.db").symlink_to(tmp_path / "data" / "journal.db")
    for number, name in enumerate(("data/journal.db", "directory/journal.db", "link.db")):
        await SqliteJournal(tmp_path / name).prepare(intent_of(id=str(number), cart_token=str(number)))
        assert len(await SqliteJournal(tmp_path / name).pending()) == number + 1


def mounts(path: Path, where: str) -> None:
    """Let the kernel's list of mounts hold this path."""
    escaped = str(path).replace(" ", "\\040")
    text = (
        f"22 1 0:20 / / rw - overlay overlay rw\n99 22 0:20 /x {where.format(escaped)} rw,relatime - ext4 /dev/x rw\n"
    )
    path.with_name("mountinfo").write_text(text)


@pytest.mark.parametrize("where", ["{}", "{}-wal", "/elsewhere"])
async def test_a_file_that_is_mounted_alone_is_refused(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "the journal.db"
    await SqliteJournal(path).prepare(intent_of())
    (tmp_path / "link.db").symlink_to(path)
    mounts(path, where)
    monkeypatch.setattr(sqlite_file, "_MOUNTINFO", tmp_path / "mountinfo")
    for name in (path, tmp_path / "link.db"):
        if where == "{}":
            for call in (SqliteJournal(name).pending, partial(SqliteJournal(name).prepare, intent_of(id="2"))):
                with pytest.raises(JournalError, match=r"mounted as a single file.*mount the directory"):
                    await call()
        else:
            assert await SqliteJournal(name).pending() == [intent_of()]


def test_a_real_mount_is_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "journal.db", tmp_path / "mounted.db"
    asyncio.run(SqliteJournal(path).prepare(intent_of()))
    other.touch()
    mount = ["unshare", "--mount", "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh", path, other]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*mount, sys.executable, "-c", READER, other], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "Operation not permitted" in done.stderr:
        pytest.skip("mounting takes privileges")
    assert "is mounted as a single file" in done.stdout, done.stderr


async def test_processes_that_make_one_file_at_once_refuse_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    body = """
    del os.mknod
    print("ready", flush=True); sys.stdin.readline()
    await journal.prepare(intent_of(id=sys.argv[2], cart_token=sys.argv[2]))
    """
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        assert together([child(body.strip(), path, str(number)) for number in range(4)]) == [""] * 4
        assert len(await SqliteJournal(path).pending()) == 4


# --- Names that are no path ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
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
def test_what_sqlite_takes_for_no_path_is_refused(
    name: Any, said: str, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^journal: must be ") as caught:
        open_journal(name) if client is None else client("partner", "secret", journal=name)
    assert said in str(caught.value)
    assert names(tmp_path) == []


def test_a_sqlite_journal_takes_no_reserved_name() -> None:
    with pytest.raises(ConfigurationError, match="leave `journal` out"):
        SqliteJournal(":memory:")
