"""The files of an SQLite journal are flushed to the disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from minted_connect.journal.sqlite import SqliteJournal
from tests.completion.fakes import intent_of

pytestmark = pytest.mark.anyio


@pytest.mark.requirement(16)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the name of a descriptor in /proc")
async def test_directory_of_new_journal_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    await SqliteJournal(tmp_path / "journal.db").prepare(intent_of())
    assert str(tmp_path) in flushed
