"""Files that another program truncates, moves, replaces or deletes while a sink writes to them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from minted_connect import SinkError
from tests.feed.test_sinks import KINDS, make, read
from tests.feed.ticks import tick

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not move an open file")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def path_of(sink: Any) -> Path:
    return sink.directory if hasattr(sink, "directory") else sink.path


def numbers(kind: str, folder: Path) -> list[int]:
    return [row["number"] for row in read(kind, folder)]


def test_sink_after_move_writes_to_new_file(kind, tmp_path, caplog):
    old = tmp_path / "old"
    old.mkdir()
    with make(kind, tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        path_of(sink).rename(old / path_of(sink).name)
        assert sink.append([tick(3)]) == 1
        assert sink.append([tick(4)]) == 1
    assert numbers(kind, tmp_path) == [3, 4]
    assert numbers(kind, old) == [1, 2]
    assert caplog.text.count("opening the ") == 1


def test_sink_after_delete_writes_to_new_file(kind, tmp_path):
    with make(kind, tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        if kind == "parquet":
            shutil.rmtree(sink.directory)
        else:
            sink.path.unlink()
        assert sink.append([tick(3)]) == 1
        assert sink.append([tick(4)]) == 1
    assert numbers(kind, tmp_path) == [3, 4]
    with make(kind, tmp_path) as sink:
        assert sink.append([tick(4), tick(5)]) == 1


def test_sink_after_replacement_appends_to_new_file(kind, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    with make(kind, other) as sink:
        sink.append([tick(number) for number in (5, 6)])
    with make(kind, tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        if kind == "parquet":
            shutil.rmtree(sink.directory)
        (other / path_of(sink).name).rename(path_of(sink))
        assert sink.append([tick(6), tick(7)]) == 1
    assert numbers(kind, tmp_path) == [5, 6, 7]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_file_truncated_to_nothing_gets_header_again(kind, tmp_path):
    with make(kind, tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        copied = sink.path.read_bytes()
        os.truncate(sink.path, 0)  # as logrotate does with copytruncate
        assert sink.append([tick(2), tick(3)]) == 1
        assert sink.append([tick(4)]) == 1
    assert b"\0" not in sink.path.read_bytes()
    assert numbers(kind, tmp_path) == [3, 4]
    with make(kind, tmp_path) as sink:
        assert sink.append([tick(4), tick(5)]) == 1
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / sink.path.name).write_bytes(copied)
    assert numbers(kind, tmp_path / "copy") == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_file_truncated_at_any_byte_stays_readable(kind, tmp_path):
    with make(kind, tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        whole = sink.path.read_bytes()
        for size in range(len(whole)):
            os.truncate(sink.path, size)
            assert sink.append([tick(100 + size)]) == 1
            assert numbers(kind, tmp_path)[-1] == 100 + size
            sink.path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_file_overwritten_by_other_content_is_not_changed(kind, tmp_path):
    with make(kind, tmp_path) as sink:
        sink.append([tick(1)])
        sink.path.write_bytes(b"hello\n")
        with pytest.raises(SinkError, match="nothing was changed"):
            sink.append([tick(2)])
    assert sink.path.read_bytes() == b"hello\n"


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_sink_without_directory_raises_until_it_is_back(kind, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with make(kind, folder) as sink:
        sink.append([tick(1)])
        folder.rename(tmp_path / "moved")
        with pytest.raises(SinkError, match="No such file"):
            sink.append([tick(2)])
        folder.mkdir()
        assert sink.append([tick(2)]) == 1
    assert numbers(kind, folder) == [2]
    assert numbers(kind, tmp_path / "moved") == [1]


@pytest.mark.parametrize("obstacle", ["file", "loop"])
def test_sink_whose_parent_is_no_directory_raises(kind, obstacle, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    sink = make(kind, folder)
    sink.open()
    sink.append([tick(1)])
    folder.rename(tmp_path / "moved")
    if obstacle == "file":
        folder.write_bytes(b"")
    else:
        folder.symlink_to(folder)
    for _ in range(2):
        with pytest.raises(SinkError, match=f"{folder}.*: "):
            sink.append([tick(2)])
    if kind == "parquet":
        with pytest.raises(SinkError, match=f"{folder}.*: "):
            sink.close()
    sink.close()
    with pytest.raises(SinkError, match=f"{folder}.*: "):
        make(kind, folder).open()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "sqlite"])
def test_sink_in_deleted_working_directory_raises_sink_error(kind, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    with pytest.raises(SinkError, match="ticks"):
        make(kind, Path()).open()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "sqlite"])
def test_sink_with_relative_path_ignores_change_of_directory(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with make(kind, Path()) as sink:
        sink.append([tick(1)])
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        sink.append([tick(2)])
    assert numbers(kind, tmp_path) == [1, 2]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_database_in_memory_is_never_reopened(tmp_path, monkeypatch):
    from minted_connect import SqliteSink

    monkeypatch.chdir(tmp_path)
    with SqliteSink(":memory:") as sink:
        assert sink.append([tick(1), tick(2)]) == 2
        assert sink.append([tick(2), tick(3)]) == 1
    assert list(tmp_path.iterdir()) == []


def test_moved_database_holds_all_rows_without_its_log(tmp_path):
    with make("sqlite", tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        sink.path.rename(tmp_path / "moved.db")  # without its -wal file
        sink.append([tick(3)])
    connection = sqlite3.connect(tmp_path / "moved.db")
    try:
        assert connection.execute("SELECT number FROM ticks ORDER BY number").fetchall() == [(1,), (2,)]
    finally:
        connection.close()


def test_parquet_buffer_that_was_emptied_leaves_no_empty_part(tmp_path):
    with make("parquet", tmp_path) as sink:
        sink.append([tick(1), tick(2)])
        os.truncate(tmp_path / "ticks" / "_rows.jsonl", 0)
        assert sink.append([tick(3)]) == 1
    assert numbers("parquet", tmp_path) == [3]
    with make("parquet", tmp_path) as sink:
        sink.append([tick(4)])
        os.truncate(tmp_path / "ticks" / "_rows.jsonl", 0)
    assert len(list((tmp_path / "ticks").glob("part-*"))) == 1
