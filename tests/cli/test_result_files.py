"""The result file of a plan: private, readable after a crash, and never written over another file."""

from __future__ import annotations

import csv
import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from minted_connect import ConfigurationError
from minted_connect.cli.result_file import Outcome, ResultFile, ResultRow

HEADER = "reference,customer,outcome,order,number,total,currency,replayed,error\n"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and locks of POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.result.csv"


def test_each_row_is_in_the_file_when_it_is_appended(path: Path) -> None:
    with ResultFile.create(path) as results:
        assert path.read_text("utf-8") == HEADER
        results.append(ResultRow("r-1", "c-1", Outcome.BOUGHT, "7", "GA7", "10.00", "AED", "false"))
        assert path.read_text("utf-8") == f"{HEADER}r-1,c-1,bought,7,GA7,10.00,AED,false,\n"
        results.append(ResultRow("r-2", "c,2", Outcome.REFUSED, error='said "no"'))
    with path.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert (rows[1]["customer"], rows[1]["outcome"], rows[1]["error"]) == ("c,2", "refused", 'said "no"')


def test_formulas_are_neutralised(path: Path) -> None:
    with ResultFile.create(path) as results:
        results.append(ResultRow("r-1", "c-1", Outcome.REFUSED, error="=HYPERLINK(1)"))
    assert path.read_text("utf-8").endswith(",'=HYPERLINK(1)\n")


def test_file_is_private(path: Path) -> None:
    before = os.umask(0)
    try:
        ResultFile.create(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        ResultFile.create(path).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", HEADER[:10], f"{HEADER}r-1,c-1,bought\n"])
def test_result_file_of_an_earlier_run_is_emptied(path: Path, content: str) -> None:
    path.write_text(content, "utf-8")
    ResultFile.create(path).close()
    assert path.read_text("utf-8") == HEADER


@pytest.mark.parametrize("content", ["customer,sku,qty,reference,max_total\n", "\n", "x"])
def test_other_file_is_refused_and_kept(path: Path, content: str) -> None:
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigurationError, match="exists and is not a result file: give another --result"):
        ResultFile.create(path)
    assert path.read_text("utf-8") == content


def test_link_directory_and_pipe_are_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text(HEADER, "utf-8")
    path.symlink_to(target)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name in (path, tmp_path, pipe):
        with pytest.raises(ConfigurationError, match=r"^result: "):
            ResultFile.create(name)
    with pytest.raises(ConfigurationError, match=r"the directory .* does not exist"):
        ResultFile.create(tmp_path / "nowhere" / "plan.result.csv")


def test_file_in_use_is_refused_and_kept(path: Path) -> None:
    with ResultFile.create(path) as results:
        results.append(ResultRow("r-1", "c-1", Outcome.UNKNOWN))
        with pytest.raises(ConfigurationError, match="is in use: the plan is running already"):
            ResultFile.create(path)
        assert "r-1" in path.read_text("utf-8")
    ResultFile.create(path).close()


def test_row_that_does_not_fit_on_the_disk_leaves_no_torn_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def write_partly(descriptor: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data[:10])

    with ResultFile.create(path) as results:
        monkeypatch.setattr(os, "write", write_partly)
        with pytest.raises(OSError, match="no space"):
            results.append(ResultRow("r-1", "c-1", Outcome.BOUGHT, "1", "2", "3", "AED", "false"))
        monkeypatch.undo()
        assert path.read_text("utf-8") == HEADER
        results.append(ResultRow("r-2", "c-2", Outcome.BOUGHT))
    assert path.read_text("utf-8") == f"{HEADER}r-2,c-2,bought,,,,,,\n"
