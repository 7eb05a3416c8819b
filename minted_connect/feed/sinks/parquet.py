"""A directory of Parquet files, of which none is ever half written."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from minted_connect import validation
from minted_connect.core.fsync import sync_directory
from minted_connect.errors import SinkError
from minted_connect.feed.dataframes import arrow, check_money, table_of
from minted_connect.feed.schema import NAMES, Key, as_text, from_text, rows_of
from minted_connect.feed.sinks.lines import JsonLinesSink, Sink, checked_path, troubles
from minted_connect.feed.tick import Tick

__all__ = ["ParquetSink"]

_PART: Final = re.compile(r"part-([0-9]{8})\.parquet")
# Readers of such a directory leave out what begins with an underscore.
_OPEN_ROWS: Final = "_rows.jsonl"
_UNFINISHED: Final = "_part.tmp"
_MOST: Final = 10_000_000


class ParquetSink(Sink):
    """A directory of Parquet files `part-00000001.parquet`, ..., each written once (extra `dataframe`: pyarrow).

    Rows wait in a file of JSON lines beside them, which survives a crash, until there are enough for a part; closing
    makes a part of what there is. Money is `decimal128(38, 18)`.

    Args:
        directory: made if it is not there; its parent has to be.
        rows_per_part: how many rows make a part.
        fsync: have each batch on the disk before going on; parts always are.

    Raises:
        InvalidInput: `directory` is no path, or `rows_per_part` no whole number from 1.
        ConfigurationError: pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """

    def __init__(self, directory: str | os.PathLike[str], *, rows_per_part: int = 10_000, fsync: bool = False) -> None:
        self.directory: Final[Path] = checked_path(directory, "directory")
        self._most = validation.integer("rows_per_part", rows_per_part, 1, _MOST)
        self._waiting = JsonLinesSink(self.directory / _OPEN_ROWS, fsync=fsync)
        self._rows = 0
        self._arrow = arrow()
        self._parquet = arrow(".parquet")

    def __repr__(self) -> str:
        return f"ParquetSink({str(self.directory)!r})"

    def open(self) -> None:
        """Make the directory if it is not there, and mend what a crash left.

        Raises:
            SinkError: it cannot be written, is in use, or holds something else.
        """
        with troubles(self.directory):
            self.directory.mkdir(exist_ok=True)
        self._waiting.open()
        try:
            with troubles(self.directory):
                (self.directory / _UNFINISHED).unlink(missing_ok=True)
            rows = self._waiting.rows()
            if (last := self._last()) is not None:
                written = self._keys(last)
                # A part is made of all rows that wait: if it has the first of them, only forgetting them was left.
                if rows and (rows[0]["currency_id"], rows[0]["at"]) in written:
                    self._waiting.clear()
                    rows = []
                self._waiting.remember(written)
            self._rows = len(rows)
        except BaseException:
            self._waiting.close()
            raise

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not there yet, all or none; return how many those were.

        Raises:
            InvalidInput: an amount does not fit into `decimal128(38, 18)`; nothing was written.
            SinkError: they cannot be written.
        """
        check_money(rows_of(ticks))
        written = self._waiting.append(ticks)
        self._rows += written
        if self._rows >= self._most:
            self._write_part()
        return written

    def close(self) -> None:
        """Make a part of the rows that wait, and let go; may be called again."""
        if not self._waiting.is_open:
            return
        try:
            if self._rows:
                self._write_part()
        finally:
            self._waiting.close()

    def _write_part(self) -> None:
        rows = [from_text(row) for row in self._waiting.rows()]
        last = self._last()
        number = 1 if last is None else int(_PART.fullmatch(last.name)[1]) + 1  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
        unfinished = self.directory / _UNFINISHED
        with troubles(self.directory):
            with unfinished.open("wb") as file:
                self._parquet.write_table(table_of(rows), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(self.directory / f"part-{number:08}.parquet")
            sync_directory(self.directory)
        self._waiting.clear()
        self._rows = 0

    def _last(self) -> Path | None:
        with troubles(self.directory):
            parts = [path for path in self.directory.iterdir() if _PART.fullmatch(path.name)]
        return max(parts, default=None, key=lambda path: path.name)

    def _keys(self, part: Path) -> list[Key]:
        try:
            # Not `read_table`: it returns while a thread of Arrow still holds the file open.
            with troubles(part), self._parquet.ParquetFile(part) as file:
                if file.schema_arrow.names != NAMES:
                    raise SinkError(f"{part}: holds something else than ticks")
                table: Any = file.read(["currency_id", "at"])
        except self._arrow.ArrowException as error:
            raise SinkError(f"{part}: is no Parquet file") from error
        keys = zip(table["currency_id"].to_pylist(), table["at"].to_pylist(), strict=True)
        return [(currency_id, as_text(at)) for currency_id, at in keys]
