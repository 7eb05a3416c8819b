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
class Ended:
    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs a command in a shell, with redirections after its arguments."""

    def run(words: str, redirections: str = "", module: str = "minted_connect.cli", **extra: str) -> Ended:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{shlex.join([sys.executable, '-m', module])} {words} {redirections}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=40,
            check=False,
            env={**process_environment(environment), **extra},
        )
        ended = Ended(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))
        assert "Traceback" not in ended.err
        assert "Exception ignored" not in ended.err
        return ended

    return run


@pytest.fixture
def ready(minted: Minted) -> Minted:
    """The customer has an open basket, and names with letters that ASCII and Latin-1 cannot encode."""
    minted("customer", "create", CUSTOMER, "--firstname", "Şule", "--lastname", "Çelik")
    assert minted("basket", "add", CUSTOMER, GOLD).code == 0
    return minted


BUY = f"buy {CUSTOMER} --yes"


@pytest.mark.parametrize("encoding", [ASCII, STRICT, LATIN_1, C_LOCALE], ids=["ascii", "strict", "latin-1", "c"])
def test_json_is_valid_in_every_encoding(
    ready: Minted, run: Run, sandbox: ThreadedSandbox, encoding: dict[str, str]
) -> None:
    ended = run(f"{BUY} --json", **encoding)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.isascii()
    shown = json.loads(ended.out)
    [order] = sandbox.shop.orders
    assert shown["order"]["id"] == order.id
    assert shown["order"]["customer"]["firstname"].startswith("Ş")


@pytest.mark.parametrize("encoding", [ASCII, STRICT, C_LOCALE], ids=["ascii", "strict", "c"])
def test_text_is_escaped(ready: Minted, run: Run, sandbox: ThreadedSandbox, encoding: dict[str, str]) -> None:
    ended = run(BUY, **encoding)
    assert ended.code == 0
    assert ended.out.isascii()
    assert len(sandbox.shop.orders) == 1


def test_standard_error_is_escaped(minted: Minted, run: Run) -> None:
    minted("customer", "create", CUSTOMER)
    ended = run(f"basket add {CUSTOMER} NO-SUCH --language tr", **ASCII)
    assert ended.code == 3
    assert ended.err.isascii()
    assert "\\u" in ended.err or "\\x" in ended.err


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
def test_a_purchase_is_done_wherever_its_result_goes(
    ready: Minted, run: Run, sandbox: ThreadedSandbox, form: str, redirections: str, code: int
) -> None:
    ended = run(f"{BUY} {form}", redirections)
    assert len(sandbox.shop.orders) == 1
    assert ended.code == code
    if code == 0 and redirections.startswith(">"):
        assert "minted: done (" in ended.err
        assert "could not be printed: " in ended.err
    listed = ready("reconcile")
    assert listed.code == 0


@pytest.mark.parametrize("readers", ["neither", "errors"])
def test_a_purchase_is_done_when_the_readers_have_gone(
    ready: Minted, sandbox: ThreadedSandbox, environment: dict[str, str], readers: str
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


def test_a_terminal_that_hangs_up_during_a_purchase_ends_with_75_or_a_result(
    ready: Minted, sandbox: ThreadedSandbox, environment: dict[str, str]
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
    os.close(master)  # from now on, writing fails with EIO
    hang.remove()
    assert process.wait(20) == 75
    assert len(sandbox.shop.orders) == 1


@pytest.mark.parametrize(
    "redirections", [">&-", ">&- 2>&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "both", "full"]
)
@pytest.mark.parametrize(
    "words",
    [
        "customer create customer-2 --json",
        f"customer update {CUSTOMER} --firstname Ada",
        f"basket set {CUSTOMER} {GOLD} 2",
        f"basket add {CUSTOMER} {GOLD} --json",
    ],
)
def test_a_change_that_cannot_be_shown_is_no_failure(ready: Minted, run: Run, words: str, redirections: str) -> None:
    ended = run(words, redirections)
    assert ended.code == 75
    assert ended.err or "2>&-" in redirections


@pytest.mark.parametrize("redirections", [">&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "full"])
def test_reading_that_cannot_be_shown_is_a_failure(run: Run, redirections: str) -> None:
    assert run("rates", redirections).code == 1


def test_a_price_that_cannot_be_shown_is_not_agreed_to(ready: Minted, run: Run, sandbox: ThreadedSandbox) -> None:
    assert run(f"buy {CUSTOMER} --dry-run", ">&-").code == 1
    assert not sandbox.shop.orders


def test_a_delivery_is_no_exception(minted: Minted, run: Run, sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    minted("customer", "create", CUSTOMER)
    minted("basket", "add", CUSTOMER, GOLD)
    assert minted("buy", CUSTOMER, "--yes").code == 0
    address = tmp_path / "address.json"
    address.write_text(json.dumps(HOME))
    minted("basket", "add", CUSTOMER, GOLD, "--type", "delivery")
    ended = run(f"deliver {CUSTOMER} --address {address} --yes --json", ">&-", **ASCII)
    assert ended.code == 0, ended.err
    assert len(sandbox.shop.orders) == 2


@pytest.mark.parametrize("module", ["minted_connect", "minted_connect.cli"])
@pytest.mark.parametrize(
    "redirections", [">&-", ">&- 2>&-", pytest.param(">/dev/full", marks=needs_full)], ids=["closed", "both", "full"]
)
def test_a_reconciliation_goes_on_where_nothing_can_be_shown(
    ready: Minted, run: Run, sandbox: ThreadedSandbox, tmp_path: Path, module: str, redirections: str
) -> None:
    journal = tmp_path / "journal.db"
    sandbox.faults.add("drop_after_commit", path="/partner/walletable/complete/buy")
    assert ready("buy", CUSTOMER, "--yes", "--journal", journal).code == 75
    assert run(f"reconcile --journal {journal}", redirections, module).code == 75
    again = run(f"reconcile --journal {journal} --json", module=module, **ASCII)
    assert (again.code, again.out) == (0, "")


def test_help_and_usage_end_as_ever_without_streams(run: Run) -> None:
    assert run("--help", ">&-").code == 1
    assert run("nonsense", ">&- 2>&-").code == 2
    assert run("--help", ">&-", "minted_connect").code in {0, 1}


# In this process.


class Failing:
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


def test_a_lossy_output_writes_until_it_fails() -> None:
    stream = Failing()
    lossy = LossyOutput(stream)  # type: ignore[arg-type]
    print("one", file=lossy, flush=True)
    print("two", file=lossy, flush=True)
    assert stream.calls == 1
    assert isinstance(lossy.failure, OSError)


def test_escapes_are_for_what_the_stream_lacks_only() -> None:
    stream = Failing()
    assert escape_unencodable("Şule", stream) == "\\u015eule"  # type: ignore[arg-type]
    stream.encoding = "utf-8"
    assert escape_unencodable("Şule", stream) == "Şule"  # type: ignore[arg-type]
    assert escape_unencodable("\udcff", stream) == "\\udcff"  # type: ignore[arg-type]
