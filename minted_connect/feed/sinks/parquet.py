"""A sink that writes ticks to a directory of Parquet files, none of which is ever incomplete."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from minted_connect import validation
from minted_connect.core.fsync import sync_directory
from minted_connect.dataframes import check_money, import_arrow, make_table
from minted_connect.errors import SinkError
from minted_connect.feed.schema import NAMES, RowId, as_text, from_text, to_rows
from minted_connect.feed.sinks.base import LastRow, Sink, as_path, check_patience, translate_os_errors
from minted_connect.feed.sinks.lines import JsonLinesSink
from minted_connect.feed.tick import Filter, Tick

__all__ = ["ParquetSink"]

_log = logging.getLogger("minted_connect.feed")

_PART: Final = re.compile(r"part-([0-9]{8})\.parquet")
# Readers of a Parquet directory skip names that start with an underscore.
_BUFFER_NAME: Final = "_rows.jsonl"
_UNFINISHED_NAME: Final = "_part.tmp"
_MAX_ROWS: Final = 10_000_000
_ID_NAMES: Final = ["currency_id", "at", "number", "metal", "sku"]


class ParquetSink(Sink):
    """Write ticks to Parquet files `part-00000001.parquet`, ..., each written once (extra `dataframe`: pyarrow).

    Rows are buffered in a JSON Lines file in the same directory, which survives a crash, until there are
    `rows_per_part` of them. `close` writes the remaining rows to a last part. Money is `decimal128(38, 18)`.

    Args:
        directory: created if it does not exist; its parent must exist.
        rows_per_part: a part is written as soon as this many rows are buffered; from 1 to 10,000,000.
        fsync: call `fsync` after each batch, so that buffered rows survive a power failure. Parts are always synced.
        patience: seconds that `open` waits while another sink writes to the directory; 0: it raises at once.

    Raises:
        InvalidInput: if `directory` is not a path, `rows_per_part` is out of range, `fsync` is not a bool, or
            `patience` is neither 0 nor seconds.
        ConfigurationError: if pyarrow is not installed (`pip install "minted-connect[dataframe]"`).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        rows_per_part: int = 10_000,
        fsync: bool = False,
        patience: float = 0.0,
    ) -> None:
        self.directory: Final[Path] = as_path(directory, "directory")
        self._rows_per_part = validation.integer("rows_per_part", rows_per_part, 1, _MAX_ROWS)
        self.patience: float = check_patience(patience)
        self._buffer = JsonLinesSink(self.directory / _BUFFER_NAME, fsync=fsync)
        self._buffered = 0  # rows in the buffer
        self._arrow = import_arrow()
        self._parquet = import_arrow(".parquet")

    def __repr__(self) -> str:
        return f"ParquetSink({str(self.directory)!r})"

    def open(self) -> None:
        """Create the directory if it does not exist, and delete or complete what a crash left.

        Raises:
            SinkError: if the directory cannot be written, is open in another sink, or contains something other than
                ticks.
        """
        with translate_os_errors(self.directory):
            self.directory.mkdir(exist_ok=True)
        self._buffer.patience = self.patience
        self._buffer.open()
        try:
            with translate_os_errors(self.directory):
                (self.directory / _UNFINISHED_NAME).unlink(missing_ok=True)
            rows = self._buffer.rows()
            if (last := self._last_part()) is not None:
                written = self._read_ids(last)
                # A part contains every buffered row: if it contains the first one, the crash came before `clear`.
                if rows and (rows[0]["currency_id"], rows[0]["at"]) in {row.key for row in written}:
                    self._buffer.clear()
                    rows = []
                self._buffer.remember(written)
            self._buffered = len(rows)
        except BaseException:
            self._buffer.release()
            raise

    def last_row(self, matches: Filter | None = None, /) -> LastRow | None:
        """Return number and time of the row after which a recording continues; None if the last part has none."""
        return self._buffer.last_row(matches)

    def interrupt(self) -> None:
        """Shorten the current wait for a lock, and each later one until the sink is closed, to a few seconds."""
        self._buffer.interrupt()

    def append(self, ticks: Sequence[Tick]) -> int:
        """Write the ticks that are not recorded yet, and return the number of rows written.

        Raises:
            InvalidInput: if an amount does not fit into `decimal128(38, 18)`; then nothing is written.
            SinkError: if the sink is not open, the ticks cannot be written, or a part cannot be written; in the last
                case the ticks are stored in the buffer.
        """
        check_money(to_rows(ticks))
        with translate_os_errors(self.directory):
            is_changed = self._buffer.is_open and self._buffer.is_changed()
        if is_changed:
            _log.warning("%s: another program changed the buffered rows; opening the directory again", self.directory)
            self._buffer.release()
            self.open()
        written = self._buffer.append(ticks)
        self._buffered += written
        if self._buffered >= self._rows_per_part:
            self._write_part()
        return written

    def close(self) -> None:
        """Write the buffered rows to a part, and close the buffer. Idempotent.

        Raises:
            SinkError: if the part cannot be written; the buffered rows are kept.
        """
        try:
            if self._buffer.is_open and self._buffered:
                self._write_part()
        finally:
            self._buffer.close()

    def _write_part(self) -> None:
        rows = [from_text(row) for row in self._buffer.rows()]
        if not rows:  # another program truncated the buffer
            self._buffered = 0
            return
        last = self._last_part()
        number = 1 if last is None else int(_PART.fullmatch(last.name)[1]) + 1  # type: ignore[index]  # pyright: ignore[reportOptionalSubscript]
        unfinished = self.directory / _UNFINISHED_NAME
        with translate_os_errors(self.directory):
            with unfinished.open("wb") as file:
                self._parquet.write_table(make_table(rows), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(self.directory / f"part-{number:08}.parquet")
            sync_directory(self.directory)
        self._buffer.clear()
        self._buffered = 0

    def _last_part(self) -> Path | None:
        with translate_os_errors(self.directory):
            parts = [path for path in self.directory.iterdir() if _PART.fullmatch(path.name)]
        return max(parts, default=None, key=lambda path: path.name)

    def _read_ids(self, part: Path) -> list[RowId]:
        try:
            # Not `read_table`: it returns while a thread of Arrow still has the file open.
            with translate_os_errors(part), self._parquet.ParquetFile(part) as file:
                if file.schema_arrow.names != NAMES:
                    raise SinkError(f"{part}: contains something other than ticks")
                table: Any = file.read(_ID_NAMES)
        except self._arrow.ArrowException as error:
            raise SinkError(f"{part}: not a Parquet file") from error
        columns = [table[name].to_pylist() for name in _ID_NAMES]
        return [RowId((currency_id, as_text(at)), *rest) for currency_id, at, *rest in zip(*columns, strict=True)]
