"""Sinks on real files: rows, crashes, and other writers."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minted_connect import CsvSink, InvalidInput, JsonLinesSink, ParquetSink, SinkError, SqliteSink
from minted_connect.feed.schema import COLUMNS, from_text
from tests.feed.ticks import BEGUN, GOLD, SILVER, tick
from tests.support.fds import open_files

NAMES = [column.name for column in COLUMNS]
KINDS = ["csv", "jsonl", "sqlite", "parquet"]


def make(kind: str, folder: Path, **options: Any) -> Any:
    if kind == "csv":
        return CsvSink(folder / "ticks.csv", **options)
    if kind == "jsonl":
        return JsonLinesSink(folder / "ticks.jsonl", **options)
    if kind == "sqlite":
        return SqliteSink(folder / "ticks.db", **options)
    return ParquetSink(folder / "ticks", **{"rows_per_part": 7, **options})


def read(kind: str, folder: Path) -> list[dict[str, Any]]:
    """Read all rows as Python values, without the code of the sinks where possible."""
    if kind == "csv":
        with (folder / "ticks.csv").open(newline="", encoding="utf-8") as file:
            rows = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
        for row in rows:
            row.update({name: int(row[name]) for name in ("currency_id", "number", "missed")})
            row.update(gap=float(row["gap"]), backfilled=row["backfilled"] == "true")
        return [from_text(row) for row in rows]
    if kind == "jsonl":
        return [from_text(json.loads(line)) for line in (folder / "ticks.jsonl").read_text("utf-8").splitlines()]
    if kind == "sqlite":
        connection = sqlite3.connect(folder / "ticks.db")
        try:
            found = connection.execute("SELECT * FROM ticks ORDER BY rowid").fetchall()
        finally:
            connection.close()
        rows = [dict(zip(NAMES, row, strict=True)) for row in found]
        return [from_text({**row, "backfilled": bool(row["backfilled"])}) for row in rows]
    parts = sorted((folder / "ticks").glob("part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    waiting = folder / "ticks" / "_rows.jsonl"
    kept = {(row["currency_id"], row["at"]) for row in rows}
    late = [from_text(json.loads(line)) for line in waiting.read_text("utf-8").splitlines()]
    return rows + [row for row in late if (row["currency_id"], row["at"]) not in kept]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


class TestRows:
    def test_sink_stores_every_value_exactly(self, kind, tmp_path):
        rate = attrs.evolve(
            GOLD,
            currency_name='Ünze, "fine"; 1000',
            spot_price=Decimal("1777.020"),
            buy_price=Decimal("1E+3"),
            sell_price=Decimal("12345678901234567890.123456789012345678"),
        )
        one = tick(1, rate, change=Decimal("-0.10"), gap=12.5, missed=3)
        other = tick(
            1, attrs.evolve(SILVER, updated_at=BEGUN.astimezone(timezone(timedelta(hours=3)))), backfilled=True
        )
        with make(kind, tmp_path) as sink:
            assert sink.append([one, other]) == 2
        first, second = read(kind, tmp_path)
        assert list(first) == NAMES
        assert first == {
            "at": BEGUN + timedelta(seconds=1),
            "currency_id": 1000013,
            "currency_name": 'Ünze, "fine"; 1000',
            "metal": "gold",
            "sku": "MNTBAE0001",
            "currency": "AED",
            "weight_unit": "g",
            "spot": Decimal("1777.020"),
            "buy": Decimal(1000),
            "sell": Decimal("12345678901234567890.123456789012345678"),
            "change": Decimal("-0.10"),
            "number": 1,
            "gap": 12.5,
            "missed": 3,
            "source_time": datetime.fromisoformat("2026-02-20T12:27:57+00:00"),
            "backfilled": False,
        }
        assert type(first["spot"]) is Decimal
        if kind != "parquet":  # Parquet stores all decimals with the same scale
            assert str(first["spot"]) == "1777.020"
        assert (second["sku"], second["change"], second["backfilled"]) == (None, None, True)
        assert second["source_time"] == BEGUN

    def test_name_with_line_break_is_one_row(self, kind, tmp_path):
        odd = attrs.evolve(GOLD, currency_name="two\r\nlines")
        with make(kind, tmp_path) as sink:
            sink.append([tick(1, odd), tick(2)])
        with make(kind, tmp_path) as sink:
            assert sink.append([tick(1, odd), tick(3)]) == 1
        names = [row["currency_name"] for row in read(kind, tmp_path)]
        assert names == ["two lines" if kind == "csv" else "two\r\nlines", "Dirham Gold", "Dirham Gold"]

    def test_reopened_sink_appends_only_new_ticks(self, kind, tmp_path):
        for first in range(0, 60, 5):
            with make(kind, tmp_path) as sink:
                written = sink.append([tick(number) for number in range(first, first + 10)])
                assert written == (10 if first == 0 else 5)
        assert [row["number"] for row in read(kind, tmp_path)] == list(range(65))

    def test_row_is_identified_by_currency_and_time(self, kind, tmp_path):
        with make(kind, tmp_path) as sink:
            assert sink.append([tick(1), tick(1, SILVER), tick(1), tick(2)]) == 3
            assert sink.append([tick(1), tick(2, SILVER)]) == 1
        assert len(read(kind, tmp_path)) == 4

    def test_overlapping_history_appends_only_missing_rows(self, kind, tmp_path):
        past = [tick(number, number=0, backfilled=True) for number in range(-5000, 0, 100)]
        with make(kind, tmp_path) as sink:
            assert sink.append(past) == 50
            assert sink.append([tick(1), tick(2)]) == 2
        more = [tick(number, number=0, backfilled=True) for number in range(-5000, 400, 100)]
        with make(kind, tmp_path) as sink:
            assert sink.append([*more, tick(500)]) == 4
        times = [row["at"] for row in read(kind, tmp_path)]
        assert times == sorted(set(times))

    def test_append_without_ticks_writes_no_row(self, kind, tmp_path):
        with make(kind, tmp_path) as sink:
            assert sink.append([]) == 0
        assert read(kind, tmp_path) == []
        with make(kind, tmp_path) as sink:
            assert sink.append([tick(1)]) == 1

    def test_sink_with_fsync_writes_row(self, kind, tmp_path):
        with make(kind, tmp_path, fsync=True) as sink:
            assert sink.append([tick(1)]) == 1
        assert len(read(kind, tmp_path)) == 1


WRITER = """
import sys
from pathlib import Path
from tests.feed.test_sinks import make
from tests.feed.ticks import SILVER, tick

kind, folder, first = sys.argv[1:]
number = int(first)
with make(kind, Path(folder)) as sink:
    while True:
        sink.append([one for n in range(number, number + 3) for one in (tick(n), tick(n, SILVER))])
        number += 3
        print(number, flush=True)
"""


class TestCrashes:
    @pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
    def test_killed_writer_loses_no_acknowledged_row(self, kind, tmp_path):
        roll = random.Random(kind)
        acknowledged = 0
        for _ in range(3):
            # The writer starts with ticks that may be in the file already.
            command = [sys.executable, "-c", WRITER, kind, str(tmp_path), str(max(0, acknowledged - 6))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for _ in range(roll.randrange(1, 40)):
                    acknowledged = int(process.stdout.readline())
                process.send_signal(signal.SIGKILL)
                rest = process.stdout.read().split("\n")
            acknowledged = int(rest[-2]) if len(rest) > 1 else acknowledged
        with make(kind, tmp_path):
            pass
        rows = [(row["currency_id"], row["number"]) for row in read(kind, tmp_path)]
        assert len(rows) == len(set(rows))
        for currency_id in (1000013, 1000019):
            numbers = [number for key, number in rows if key == currency_id]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= acknowledged

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_file_truncated_at_any_byte_is_completed(self, kind, tmp_path, caplog):
        with make(kind, tmp_path) as sink:
            sink.append([tick(number) for number in range(4)])
        whole = sink.path.read_bytes()
        ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
        for size in range(len(whole) + 1):
            sink.path.write_bytes(whole[:size])
            caplog.clear()
            with make(kind, tmp_path) as again:
                kept = sum(end <= size for end in ends) - (kind == "csv")
                assert again.append([tick(number) for number in range(4)]) == 4 - max(0, kept)
            assert sink.path.read_bytes() == whole

    def test_unfinished_parquet_part_is_deleted(self, tmp_path):
        with make("parquet", tmp_path) as sink:
            sink.append([tick(number) for number in range(7)])
        (tmp_path / "ticks" / "_part.tmp").write_bytes(b"PAR1 and no more")
        with make("parquet", tmp_path) as sink:
            assert sink.append([tick(6), tick(7)]) == 1
        assert not (tmp_path / "ticks" / "_part.tmp").exists()
        assert [row["number"] for row in read("parquet", tmp_path)] == list(range(8))

    def test_rows_buffered_after_crash_are_not_written_twice(self, tmp_path):
        with make("parquet", tmp_path, rows_per_part=100) as sink:
            sink.append([tick(number) for number in range(5)])
            waiting = (tmp_path / "ticks" / "_rows.jsonl").read_bytes()
        # State after a crash between writing the part and deleting its rows from the buffer.
        (tmp_path / "ticks" / "_rows.jsonl").write_bytes(waiting)
        with make("parquet", tmp_path, rows_per_part=100) as sink:
            assert sink.append([tick(4), tick(5)]) == 1
        assert [row["number"] for row in read("parquet", tmp_path)] == list(range(6))
        assert len(list((tmp_path / "ticks").glob("part-*"))) == 2

    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    def test_full_disk_leaves_complete_rows(self, kind, tmp_path):
        script = """
import resource, signal, sys
from pathlib import Path
from minted_connect import SinkError
from tests.feed.test_sinks import make
from tests.feed.ticks import tick

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
with make(sys.argv[1], Path(sys.argv[2]), **({"rows_per_part": 1000} if sys.argv[1] == "parquet" else {})) as sink:
    written = 0
    try:
        while True:
            written += sink.append([tick(written), tick(written + 1)])
    except SinkError as error:
        print(written, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert sink.append([tick(written - 1), tick(written)]) == 1
"""
        command = [sys.executable, "-c", script, kind, str(tmp_path)]
        out = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (out.returncode, out.stderr) == (0, "")
        written, text = out.stdout.split(" ", 1)
        assert "ticks" in text
        assert "File too large" in text
        assert [row["number"] for row in read(kind, tmp_path)] == list(range(int(written) + 1))


class TestExistingFiles:
    @pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
    @pytest.mark.skipif(sys.platform == "win32", reason="needs advisory locks")
    def test_second_writer_of_file_raises_sink_error(self, kind, tmp_path):
        with make(kind, tmp_path) as sink:
            sink.append([tick(1)])
            with pytest.raises(SinkError, match="another process or another sink is writing to this file"):
                make(kind, tmp_path).open()
            sink.append([tick(2)])
        with make(kind, tmp_path) as sink:
            sink.append([tick(3)])
        assert len(read(kind, tmp_path)) == 3

    def test_database_accepts_several_writers(self, tmp_path):
        with make("sqlite", tmp_path) as one, make("sqlite", tmp_path) as other:
            assert one.append([tick(1), tick(2)]) == 2
            assert other.append([tick(2), tick(3)]) == 1
        assert len(read("sqlite", tmp_path)) == 3

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    @pytest.mark.parametrize("content", [b"time,price\n1,2\n", b"hello", b"{}\n", b'{"at": 5}\n', b"\x00" * 500])
    def test_file_without_ticks_is_not_changed(self, kind, content, tmp_path):
        sink = make(kind, tmp_path)
        sink.path.write_bytes(content)
        with pytest.raises(SinkError, match="nothing was changed"):
            sink.open()
        assert sink.path.read_bytes() == content

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_corrupt_row_is_not_overwritten(self, kind, tmp_path):
        with make(kind, tmp_path) as sink:
            sink.append([tick(1), tick(2), tick(3)])
        lines = sink.path.read_bytes().splitlines(keepends=True)
        lines[-2] = lines[-2][:20] + b"\n"
        sink.path.write_bytes(b"".join(lines))
        with pytest.raises(SinkError, match="contains a row that cannot be read; nothing was changed"):
            make(kind, tmp_path).open()
        assert sink.path.read_bytes() == b"".join(lines)

    def test_table_without_ticks_raises_sink_error(self, tmp_path):
        connection = sqlite3.connect(tmp_path / "ticks.db")
        connection.execute("CREATE TABLE ticks (a, b)")
        connection.close()
        with pytest.raises(SinkError, match="the table ticks contains something other than ticks"):
            make("sqlite", tmp_path).open()
        with SqliteSink(tmp_path / "ticks.db", table="others") as sink:
            assert sink.append([tick(1)]) == 1

    def test_file_that_is_no_database_raises_sink_error(self, tmp_path):
        (tmp_path / "ticks.db").write_text("hello, I am no database at all" * 100)
        with pytest.raises(SinkError, match="not a database"):
            make("sqlite", tmp_path).open()

    @pytest.mark.parametrize("content", ["part", "other"])
    def test_invalid_parquet_part_raises_sink_error(self, tmp_path, content):
        import pyarrow as pa

        (tmp_path / "ticks").mkdir()
        part = tmp_path / "ticks" / "part-00000001.parquet"
        if content == "part":
            part.write_bytes(b"no parquet")
        else:
            pq.write_table(pa.table({"a": [1]}), part)
        with pytest.raises(SinkError, match=r"part-00000001\.parquet"):
            make("parquet", tmp_path).open()
        with pytest.raises(SinkError, match=r"part-00000001\.parquet"):  # the lock was released
            make("parquet", tmp_path).open()

    def test_missing_directory_raises_sink_error(self, kind, tmp_path):
        with pytest.raises(SinkError, match="nowhere"):
            make(kind, tmp_path / "nowhere" / "else").open()

    def test_directory_as_path_raises_sink_error(self, tmp_path):
        for sink in (CsvSink(tmp_path), JsonLinesSink(tmp_path), SqliteSink(tmp_path)):
            with pytest.raises(SinkError, match=tmp_path.name):
                sink.open()

    def test_calls_in_wrong_order_raise(self, kind, tmp_path):
        sink = make(kind, tmp_path)
        sink.close()
        with pytest.raises(SinkError, match="not open"):
            sink.append([tick(1)])
        with sink:
            with pytest.raises(SinkError, match="already open"):
                sink.open()
            sink.append([tick(1)])
        sink.close()
        with sink:  # opened again
            assert sink.append([tick(1), tick(2)]) == 1

    def test_repr_of_sink_contains_path(self, kind, tmp_path):
        assert "ticks" in repr(make(kind, tmp_path))


class TestLargeFiles:
    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_large_file_is_reopened_after_truncated_row(self, kind, tmp_path):
        with make(kind, tmp_path) as sink:
            for first in range(0, 12_000, 1000):
                sink.append([tick(number) for number in range(first, first + 1000)])
        assert sink.path.stat().st_size > 2**20
        with sink.path.open("ab") as file:
            file.write(b'{"at": "torn')
        with make(kind, tmp_path) as again:
            assert again.append([tick(number) for number in range(11_000, 12_001)]) == 1
        assert [row["number"] for row in read(kind, tmp_path)] == list(range(12_001))


class TestMoney:
    @given(
        places=st.integers(0, 30),
        digits=st.text("0123456789", min_size=1, max_size=40),
        sign=st.sampled_from(["", "-"]),
        shift=st.integers(-5, 25),
    )
    @settings(max_examples=150, deadline=None)
    def test_parquet_amount_is_stored_exactly_or_rejected(self, places, digits, sign, shift):
        from minted_connect.dataframes import check_money, make_table

        value = Decimal(f"{sign}{digits}E{shift - places}")
        row = dict.fromkeys(NAMES) | {"spot": value}
        try:
            check_money([row])
        except InvalidInput as error:
            assert error.field == "spot"
            scaled = Fraction(value) * 10**18  # Decimal would round
            assert abs(scaled) >= 10**38 or scaled.denominator != 1
        else:
            (back,) = make_table([row])["spot"].to_pylist()
            assert Fraction(back) == Fraction(value)

    def test_amount_with_too_many_places_is_rejected(self, tmp_path):
        odd = attrs.evolve(GOLD, sell_price=Decimal("1e-19"))
        with make("parquet", tmp_path) as sink:
            with pytest.raises(InvalidInput, match="sell: must have at most 18 places") as caught:
                sink.append([tick(1), tick(2, odd)])
            assert caught.value.field == "sell"
        assert read("parquet", tmp_path) == []


@pytest.mark.parametrize("path", [None, 5, b"bytes", "", "nul\0", ["a"]])
@pytest.mark.parametrize("sink_class", [CsvSink, JsonLinesSink, SqliteSink, ParquetSink])
def test_invalid_path_raises_invalid_input(sink_class, path):
    with pytest.raises(InvalidInput) as caught:
        sink_class(path)
    assert caught.value.field == ("directory" if sink_class is ParquetSink else "path")


@pytest.mark.parametrize(
    ("sink_class", "options", "field"),
    [
        *((sink_class, {"fsync": "yes"}, "fsync") for sink_class in (CsvSink, JsonLinesSink, SqliteSink, ParquetSink)),
        *((SqliteSink, {"table": table}, "table") for table in ("", "a b", 'a"b', "sqlite_x", 5, None, "1a", "x" * 99)),
        *((ParquetSink, {"rows_per_part": rows}, "rows_per_part") for rows in (0, -1, 1.5, "9", True, None)),
    ],
)
def test_invalid_sink_option_raises_invalid_input(sink_class, options, field):
    with pytest.raises(InvalidInput) as caught:
        sink_class("x", **options)
    assert caught.value.field == field


def test_parquet_sink_without_pyarrow_names_extra(monkeypatch, tmp_path):
    from minted_connect import ConfigurationError

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ConfigurationError, match=r'pyarrow is not installed: pip install "minted-connect\[dataframe\]"'
    ):
        ParquetSink(tmp_path / "x")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc/self/fd")
def test_closed_sink_leaves_no_open_file(kind, tmp_path):
    def open_in_tmp_path() -> list[Path]:
        return [open_ for open_ in map(Path, open_files()) if tmp_path in open_.parents]

    for _ in range(3):
        with make(kind, tmp_path) as sink:
            sink.append([tick(1)])
            assert open_in_tmp_path()
        assert open_in_tmp_path() == []
