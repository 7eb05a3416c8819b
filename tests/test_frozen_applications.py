"""The package in a zip file, as in a zipapp or an executable of PyInstaller: no data files and no package metadata."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import minted_connect

PACKAGE = Path(minted_connect.__file__).parent
# An executable of PyInstaller holds the metadata of no package unless its configuration names it.
WITHOUT_METADATA = """
import importlib.metadata
import sys
importlib.metadata.Distribution.discover = classmethod(lambda cls, **context: iter(()))
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zip file with the modules of the package."""
    archive = tmp_path_factory.mktemp("frozen") / "application.zip"
    with ZipFile(archive, "w") as file:
        for module in PACKAGE.rglob("*.py"):
            file.write(module, module.relative_to(PACKAGE.parent))
    return archive


def run(archive: Path, program: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(archive), "NO_COLOR": "1"}
    command = [sys.executable, "-W", "error", "-c", WITHOUT_METADATA + program]
    process = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=archive.parent, timeout=50, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_zipped_package_has_a_version(archive: Path):
    program = """
import minted_connect
assert ".zip" in minted_connect.__file__
print(minted_connect.__version__)
from minted_connect import *
"""
    assert run(archive, program).strip() == minted_connect.__version__


def test_zipped_package_buys(archive: Path):
    program = """
from minted_connect import MintedConnect, OutcomeUnknown
with MintedConnect.sandbox(journal="journal.sqlite") as minted:
    minted.customers.create("customer-1")
    basket = minted.baskets.add_item("customer-1", sku="MNTBAE0001")
    minted.sandbox_server.faults.add("drop_after_commit", path="*/complete/buy")
    try:
        minted.complete.buy(basket, expected_total=basket.paid_total)
    except OutcomeUnknown as error:
        print(minted.complete.reconcile(error).order_id == minted.sandbox_server.shop.orders[0].id)
"""
    assert run(archive, program) == "True\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["doctor", "--help"], ["demo"]])
def test_zipped_command_line_works(archive: Path, arguments: list[str]):
    program = f"""
sys.argv[1:] = {arguments!r}
from minted_connect.cli import main
main()
"""
    assert run(archive, program)


def test_zipped_doctor_shows_unknown_versions(archive: Path):
    program = """
from minted_connect.sandbox import ThreadedSandbox
from minted_connect.cli import main
import os
with ThreadedSandbox() as sandbox:
    os.environ["MINTED_CONNECT_PASSWORD"] = sandbox.password
    sys.argv[1:] = ["doctor", "--base-url", sandbox.url, "--username", sandbox.username]
    main()
"""
    output = run(archive, program)
    assert minted_connect.__version__ in output
    assert "version unknown: no package metadata" in output
    assert "responded with status 200" in output


def test_zipped_console_names_the_missing_file(archive: Path):
    program = """
import urllib.error
import urllib.request
from minted_connect.sandbox import ThreadedSandbox
with ThreadedSandbox() as sandbox:
    with urllib.request.urlopen(sandbox.console_url + "/state") as response:
        print(response.status)
    try:
        urllib.request.urlopen(sandbox.console_url)
    except urllib.error.HTTPError as error:
        with error:
            print(error.code, error.headers.get_content_type(), error.read().decode())
"""
    status, page = run(archive, program).splitlines()
    assert status == "200"
    assert page.startswith("503 text/plain The page of the console is missing: add the data files of minted_connect")
