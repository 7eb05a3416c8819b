"""What the README says is so: its snippets run, its tables are the code's, its names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import minted_connect
from minted_connect import MintedConnectError
from minted_connect.core.request import OPERATIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PATIENCE = 60.0


def complaints(text: str) -> list[str]:
    """What stands on standard error, but for slow steps that -X dev reports and the log of an unknown outcome."""
    usual = ("Executing <", "intent ")
    return [line for line in text.splitlines() if not line.startswith(usual)]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [cells(row) for row in rows[2:]]


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_there_are_snippets():
    assert len(SNIPPETS) == README.count("```python")
    assert len(SNIPPETS) >= 7


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(1, len(SNIPPETS) + 1))
def test_a_snippet_runs(snippet, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", snippet],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert done.stdout.strip()


def test_the_operations_are_those_of_the_code():
    shown = README.partition("<!-- operations -->\n")[2].partition("<!-- /operations -->")[0]
    assert table(shown) == [
        [f"`{one.name}`", one.title, f"{one.method} `{one.path}`", str(one.evidence)] for one in OPERATIONS.values()
    ]


@pytest.mark.parametrize("name", ["one", "two"])
def test_there_are_two_commands(name):
    found = re.search(rf"<!-- command {name} -->\n```sh\n(.*)\n```\n", README)
    assert found
    words = shlex.split(found[1])
    assert words[:4] == ["python3", "-m", "venv", ".venv"]
    assert ("demo" if name == "one" else "pytest") in words


def test_every_error_exists():
    named = set(re.findall(r"`([A-Z]\w+)`", " ".join(row[0] for row in table(section("Errors")))))
    assert len(named) > 20
    for name in named - {"ValueError", "TimeoutError"}:
        assert issubclass(getattr(minted_connect, name), MintedConnectError), name


def test_every_method_exists():
    for name, methods in table(section("What there is")):
        for client in (minted_connect.AsyncMintedConnect, minted_connect.MintedConnect):
            resource = getattr(client("user", "password"), name.strip("`"))
            for method in re.findall(r"`(\w+)`", methods.partition("(")[0] + methods.partition(")")[2]):
                assert callable(getattr(resource, method)), f"{name}.{method}"


def test_every_name_that_is_imported_is_public():
    for names in re.findall(r"^from minted_connect import (.+)$", README, re.MULTILINE):
        assert set(names.split(", ")) <= set(minted_connect.__all__)


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_nothing_of_one_machine():
    assert not re.search(r"/(home|root|work|Users|tmp|mnt|opt)/", README)
    assert not re.search(r"--(extra-)?index-url|\.internal\b|\.local\b|\.corp\b", README)
    hosts = set(re.findall(r"https?://([^\s/)\"`]+)", README)) - {"..."}
    assert hosts <= {"docs.mintedconnect.com", "api.staging.mintedconnect.com"}
