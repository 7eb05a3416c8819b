"""What the README says is so: its snippets run, its tables are the code's, its names exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import minted_connect
from minted_connect import CompletionPolicy, MintedConnectError, errors
from minted_connect.core.request import OPERATIONS
from minted_connect.sandbox.faults import faults_table
from tests.support.redis_server import free_port, running

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
GUIDES = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "minted_connect" / "guides").glob("*.md"))}
_SNIPPET = re.compile(r"(?<!-->\n)^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = _SNIPPET.findall(README)
IN_GUIDES = [
    (name, number, code) for name, text in GUIDES.items() for number, code in enumerate(_SNIPPET.findall(text), 1)
]
RECIPES = re.findall(r"^<!-- recipe (\w+) -->\n```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TITLES = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
PATIENCE = 60.0
NOT_ERRORS = {"AMBIGUOUS_STATUSES", "Effect", "Phase", "RequestInfo"}


def complaints(text: str) -> list[str]:
    """What stands on standard error, but for slow steps, which -X dev reports."""
    usual = ("Executing <",)
    return [line for line in text.splitlines() if not line.startswith(usual)]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    rows = re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert rows
    return [cells(row) for row in rows[0].splitlines()[2:]]


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture
def redis_url():
    with running() as server:
        yield server.url


def test_there_are_snippets():
    # The recipes run in tests/frameworks.
    assert len(SNIPPETS) + len(RECIPES) == README.count("```python")
    assert len(SNIPPETS) >= 7


@pytest.mark.parametrize(
    "snippet",
    [pytest.param(code, id=str(number)) for number, code in enumerate(SNIPPETS, 1)]
    + [pytest.param(code, id=f"{name}-{number}") for name, number, code in IN_GUIDES],
)
def test_a_snippet_runs(snippet, tmp_path, request):
    if snippet.startswith("def test_"):
        (tmp_path / "test_it.py").write_text(snippet, "utf-8")
        snippet = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    env = {**os.environ, "REDIS_URL": request.getfixturevalue("redis_url")} if "REDIS_URL" in snippet else None
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", snippet],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert done.stdout.strip()


def test_the_operations_are_those_of_the_code():
    shown = README.partition("<!-- operations -->\n")[2].partition("<!-- /operations -->")[0]
    assert table(shown) == [
        [f"`{one.name}`", one.title, f"{one.method} `{one.path}`", str(one.evidence)] for one in OPERATIONS.values()
    ]


def test_every_setting_of_completions_is_there_with_its_question():
    rows = table(README.partition("\n### Open questions, as settings\n")[2])
    assert [row[0] for row in rows] == [f"Q{number}" for number in range(1, 10)]
    section_text = README.partition("\n## Money safety\n")[2].partition("\n## ")[0]
    for field in attrs.fields(CompletionPolicy):
        if field.name != "reconcile_budget":
            assert f"`{field.name}`" in section_text


def test_the_commands_of_the_shell_work(tmp_path):
    found = re.search(r"<!-- shell -->\n```sh\n(.*?)```\n", README, re.DOTALL)
    assert found
    port = free_port()
    script = found[1].replace(":8787", f":{port}").replace("sandbox --quiet", f"sandbox --port {port} --quiet")
    wait = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do :; done\n"
    first, background, rest = script.partition("&\n")
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill %1' EXIT\n{first}{background}{wait}{rest}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done
    assert (tmp_path / "gold.csv").read_text("utf-8").startswith("time,")
    assert len((tmp_path / "orders.csv").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("name", ["one", "two"])
def test_there_are_two_commands(name):
    found = re.search(rf"<!-- command {name} -->\n```sh\n(.*)\n```\n", README)
    assert found
    words = shlex.split(found[1])
    assert words[:4] == ["python3", "-m", "venv", ".venv"]
    assert ("demo" if name == "one" else "pytest") in words


def test_every_error_exists_and_none_is_missing():
    named = set(re.findall(r"`([A-Z]\w+)`", " ".join(row[0] for row in table(section("Errors")))))
    bases = {"MintedConnectError", "NotSent"}
    assert named - {"ValueError", "TimeoutError"} == set(errors.__all__) - bases - NOT_ERRORS
    for name in bases | named - {"ValueError", "TimeoutError"}:
        assert issubclass(getattr(minted_connect, name), MintedConnectError), name


def test_the_table_of_faults_is_that_of_the_registry():
    assert README.partition("<!-- faults -->\n")[2].partition("<!-- /faults -->")[0] == faults_table()


def test_every_open_question_is_listed():
    listed = [row[0] for row in table(section("Open questions"))]
    assert listed == [f"S{number}" for number in range(1, 28)]
    listed += [row[0] for row in table(README.partition("\n### Open questions, as settings\n")[2])]
    for file in (ROOT / "minted_connect").rglob("*.py"):
        assert set(re.findall(r"\b[SQ][0-9]{1,2}\b", file.read_text("utf-8"))) <= set(listed), file.name


def test_every_method_exists():
    for name, methods in table(section("What there is")):
        for client in (minted_connect.AsyncMintedConnect, minted_connect.MintedConnect):
            resource = getattr(client("user", "password"), name.strip("`"))
            for method in re.findall(r"`(\w+)`", methods.partition("(")[0] + methods.partition(")")[2]):
                assert callable(getattr(resource, method)), f"{name}.{method}"


def test_every_name_that_is_imported_is_public():
    text = "\n".join([README, *GUIDES.values()])
    for names in re.findall(r"^from minted_connect import (.+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= set(minted_connect.__all__)


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        anchors = {f"#{title.lower().replace(',', '').replace(' ', '-')}" for title in TITLES}
        assert target.startswith("https://") or target in anchors or (ROOT / target).exists(), target


def test_nothing_of_one_machine():
    assert not re.search(r"/(home|root|work|Users|tmp|mnt|opt)/", README)
    assert not re.search(r"--(extra-)?index-url|\.internal\b|\.local\b|\.corp\b", README)
    hosts = set(re.findall(r"https?://([^\s/)\"`]+)", README)) - {"..."}
    # The last one is the default of a fault: a redirect to a host that does not exist.
    assert hosts <= {
        "docs.mintedconnect.com",
        "api.staging.mintedconnect.com",
        "127.0.0.1:8787",
        "files.example.com",
    }
