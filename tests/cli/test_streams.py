"""Commands whose standard streams are closed, full, without a reader, or unable to encode a character."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from minted_connect.cli.process import LossyOutput, escape_unencodable
from minted_connect.sandbox import ThreadedSandbox
from tests.cli.conftest import CUSTOMER, GOLD, HOME, Minted, process_environment
from tests.support.subprocesses import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="redirections of a POSIX shell")

ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
STRICT = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
LATIN_1 = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


@attrs.frozen
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Return a function that runs a command in a shell, with redirections after its arguments."""

    def run(arguments: str, redirections: str = "", module: str = "minted_connect.cli", **extra: str) -> Result:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{shlex.join([sys.executable, '-m', module])} {arguments} {redirections}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=40,
            check=False,
            env={**process_environment(environment), **extra},
        )
        result = Result(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
        assert "Traceback" not in result.err
        assert "Exception ignored" not in result.err
        return result

    return run


@pytest.fixture
def minted_with_basket(minted: Minted) -> Minted:
    """Return `minted` for a customer with an open basket and a name that ASCII and Latin-1 cannot encode."""
    minted("customer", "create", CUSTOMER, "--firstname", "Şule", "--lastname", "Çelik")
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    return minted


BUY = f"buy {CUSTOMER} --yes"


@pytest.mark.parametrize("encoding", [ASCII, STRICT, LATIN_1, C_LOCALE], ids=["ascii", "strict", "latin-1", "c"])
def test_json_output_is_ascii_in_every_encoding(
    minted_with_basket: Minted, run: Run, sandbox: ThreadedSandbox, encoding: dict[str, str]
) -> None:
    result = run(f"{BUY} --json", **encoding)
    assert (result.code, result.err) == (0, "")
    assert result.out.isascii()
    shown = json.loads(result.out)
    [order] = sandbox.shop.orders
    assert shown["order"]["id"] == order.id
    assert shown["order"]["customer"]["firstname"].startswith("Ş")


@pytest.mark.parametrize("encoding", [ASCII, STRICT, C_LOCALE], ids=["ascii", "strict", "c"])
def test_text_output_is_escaped_in_ascii_encodings(
    minted_with_basket: Minted, run: Run, sandbox: ThreadedSandbox, encoding: dict[str, str]
) -> None:
    result = run(BUY, **encoding)
    assert result.code == 0
    assert result.out.isascii()
    assert len(sandbox.shop.orders) == 1


def test_stderr_is_escaped_in_ascii_encoding(minted: Minted, run: Run) -> None:
    minted("customer", "create", CUSTOMER)
    result = run(f"basket add {CUSTOMER} NO-SUCH --language tr", **ASCII)
    assert result.code == 3
    assert result.err.isascii()
    assert "\\u" in result.err or "\\x" in result.err


@pytest.mark.parametrize("form", ["", "--json"])
@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        ("<&-", 0),
        pytest.param(">/dev/full", 0, marks=needs_full),
        pytest.param("2>/dev/full", 0, marks=needs_full),
        (">&- 2>&-", 75),
        ("<&- >&- 2>&-", 75),
        pytest.param(">/dev/full 2>/dev/full", 75, marks=needs_full),
        pytest.param(">/dev/full 2>&-", 75, marks=needs_full),
    ],
)
def test_purchase_with_closed_or_full_streams_is_executed(
    minted_with_basket: Minted, run: Run, sandbox: ThreadedSandbox, form: str, redirections: str, code: int
) -> None:
    result = run(f"{BUY} {form}", redirections)
    assert len(sandbox.shop.orders) == 1
    assert result.code == code
    if code == 0 and redirections.startswith(">"):
        assert "minted: done (" in result.err
        assert "could not be printed: " in result.err
    reconciled = minted_with_basket("reconcile")
    assert reconciled.code == 0


@pytest.mark.parametrize("readers", ["neither", "errors"])
def test_purchase_with_closed_pipes_is_executed(
    minted_with_basket: Minted, sandbox: ThreadedSandbox, environment: dict[str, str], readers: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "minted_connect.cli", *shlex.split(BUY), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE if readers == "errors" else writing,
            env=process_environment(environment),
            text=True,
            timeout=40,
            check=False,
        )
    finally:
        os.close(writing)
    assert len(sandbox.shop.orders) == 1
    if readers == "errors":
        assert done.returncode == 0
        assert "could not be printed: BrokenPipeError" in done.stderr
    else:
        assert done.returncode == 75


def test_terminal_hangup_during_purchase_exits_75(
    minted_with_basket: Minted, sandbox: ThreadedSandbox, environment: dict[str, str]
) -> None:
    hang = sandbox.faults.add("hang", path="/partner/walletable/complete/buy")
    master, slave = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "minted_connect.cli", *shlex.split(BUY)],
            stdin=subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
            env=process_environment(environment),
        )
    finally:
        os.close(slave)

    until(lambda: hang.waiting)
    os.close(master)  # writing fails with EIO now
    hang.remove()
    assert process.wait(20) == 75
    assert len(sandbox.shop.orders) == 1


@pytest.mark.parametrize(
    "redirections", [">&-", ">&- 2>&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "both", "full"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        "customer create customer-2 --json",
        f"customer update {CUSTOMER} --firstname Ada",
        f"basket set {CUSTOMER} {GOLD} 2",
        f"basket add {CUSTOMER} {GOLD} --json",
    ],
)
def test_change_with_unwritable_stdout_exits_75(
    minted_with_basket: Minted, run: Run, arguments: str, redirections: str
) -> None:
    result = run(arguments, redirections)
    assert result.code == 75
    assert result.err or "2>&-" in redirections


@pytest.mark.parametrize("redirections", [">&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "full"])
def test_read_with_unwritable_stdout_exits_1(run: Run, redirections: str) -> None:
    assert run("rates", redirections).code == 1


def test_dry_run_with_closed_stdout_places_no_order(
    minted_with_basket: Minted, run: Run, sandbox: ThreadedSandbox
) -> None:
    assert run(f"buy {CUSTOMER} --dry-run", ">&-").code == 1
    assert not sandbox.shop.orders


def test_delivery_with_closed_stdout_is_executed(
    minted: Minted, run: Run, sandbox: ThreadedSandbox, tmp_path: Path
) -> None:
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("buy", CUSTOMER, "--yes").code == 0
    address = tmp_path / "address.json"
    address.write_text(json.dumps(HOME))
    minted("basket", "add", CUSTOMER, GOLD, "--type", "delivery")
    result = run(f"deliver {CUSTOMER} --address {address} --yes --json", ">&-", **ASCII)
    assert result.code == 0, result.err
    assert len(sandbox.shop.orders) == 2


@pytest.mark.parametrize("module", ["minted_connect", "minted_connect.cli"])
@pytest.mark.parametrize(
    "redirections", [">&-", ">&- 2>&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "both", "full"]
)
def test_reconciliation_with_unwritable_stdout_is_executed(
    minted_with_basket: Minted, run: Run, sandbox: ThreadedSandbox, tmp_path: Path, module: str, redirections: str
) -> None:
    journal = tmp_path / "journal.db"
    sandbox.faults.add("drop_after_commit", path="/partner/walletable/complete/buy")
    assert minted_with_basket("buy", CUSTOMER, "--yes", "--journal", journal).code == 75
    assert run(f"reconcile --journal {journal}", redirections, module).code == 75
    again = run(f"reconcile --journal {journal} --json", module=module, **ASCII)
    assert (again.code, again.out) == (0, "")


def test_help_and_wrong_usage_without_streams_keep_exit_code(run: Run) -> None:
    assert run("--help", ">&-").code == 1
    assert run("nonsense", ">&- 2>&-").code == 2
    assert run("--help", ">&-", "minted_connect").code in {0, 1}


# --- functions, in this process ----------------------------------------------------------------------------------


class FailingStream:
    encoding = "ascii"

    def __init__(self) -> None:
        self.calls = 0

    def write(self, text: str) -> int:
        self.calls += 1
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def fileno(self) -> int:
        raise OSError


def test_lossy_output_stops_writing_after_failure() -> None:
    stream = FailingStream()
    lossy = LossyOutput(stream)  # type: ignore[arg-type]
    print("one", file=lossy, flush=True)
    print("two", file=lossy, flush=True)
    assert stream.calls == 1
    assert isinstance(lossy.failure, OSError)


def test_escape_unencodable_keeps_encodable_characters() -> None:
    stream = FailingStream()
    assert escape_unencodable("Şule", stream) == "\\u015eule"  # type: ignore[arg-type]
    stream.encoding = "utf-8"
    assert escape_unencodable("Şule", stream) == "Şule"  # type: ignore[arg-type]
    assert escape_unencodable("\udcff", stream) == "\\udcff"  # type: ignore[arg-type]
