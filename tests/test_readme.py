"""README and guides match the code: programs run, tables agree, names and link targets exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attrs
import pytest

import minted_connect
from minted_connect import CompletionPolicy, MintedConnectError, errors
from minted_connect.core.request import OPERATIONS
from minted_connect.sandbox.active_faults import KINDS, faults_table
from tests.snippets import DOCUMENTS, GUIDES, PACKAGE, PROGRAMS, README, RECIPES, ROOT
from tests.support.redis_server import free_port, running

PATIENCE = 60.0
MAX_LINES = 350
NOT_ERRORS = {"AMBIGUOUS_STATUSES", "Effect", "Phase", "RequestInfo"}


def error_lines(text: str) -> list[str]:
    """Return the lines of standard error except reports of slow steps, which -X dev causes."""
    slow_steps = ("Executing <",)
    return [line for line in text.splitlines() if not line.startswith(slow_steps)]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("|").split("|")]


def table(text: str) -> list[list[str]]:
    """Return the rows of the first table in a text, without its header."""
    rows = re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert rows
    return [cells(row) for row in rows[0].splitlines()[2:]]


def section(document: str, title: str) -> str:
    """Return a section with its subsections."""
    match = re.search(rf"^(##+) {re.escape(title)}\n", DOCUMENTS[document], re.MULTILINE)
    assert match, title
    rest = DOCUMENTS[document][match.end() :]
    return re.split(rf"^#{{2,{len(match[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def slugs(document: str) -> set[str]:
    """Return the anchors that GitHub makes of the titles of a document."""
    titles = re.findall(r"^#+ (.+)$", DOCUMENTS[document], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture
def redis_url():
    with running() as server:
        yield server.url


def test_readme_is_short():
    assert len(README.splitlines()) <= MAX_LINES


def test_every_code_block_is_a_program_or_a_recipe():
    # The recipes run in tests/frameworks.
    assert len(PROGRAMS) + len(RECIPES) == sum(text.count("```python") for text in DOCUMENTS.values())
    assert len([program for program in PROGRAMS if program.document == "README"]) >= 6
    assert len(PROGRAMS) >= 20


def test_recipe_shown_twice_is_the_same():
    assert len(set(RECIPES)) == len(dict(RECIPES))


@pytest.mark.parametrize("snippet", [pytest.param(program.code, id=program.name) for program in PROGRAMS])
def test_program_runs(snippet, tmp_path, request):
    if "\ndef test_" in snippet:
        (tmp_path / "test_it.py").write_text(snippet, "utf-8")
        snippet = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    env = {**os.environ, "REDIS_URL": request.getfixturevalue("redis_url")} if "REDIS_URL" in snippet else None
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", snippet],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert (process.returncode, error_lines(process.stderr)) == (0, [])
    assert process.stdout.strip()


def test_table_of_operations_matches_the_code():
    documented = GUIDES["evidence"].partition("<!-- operations -->\n")[2].partition("<!-- /operations -->")[0]
    assert table(documented) == [
        [f"`{operation.name}`", operation.title, f"{operation.method} `{operation.path}`", str(operation.evidence)]
        for operation in OPERATIONS.values()
    ]


def test_open_questions_name_every_completion_setting():
    section_text = section("money-safety", "Open questions, as settings")
    assert [row[0] for row in table(section_text)] == [f"Q{number}" for number in range(1, 10)]
    for field in attrs.fields(CompletionPolicy):
        assert f"`{field.name}`" in section_text


@pytest.mark.parametrize("document", ["README", "cli"])
def test_shell_commands_work(tmp_path, document):
    (commands,) = re.findall(r"<!-- shell -->\n```sh\n(.*?)```\n", DOCUMENTS[document], re.DOTALL)
    port = free_port()
    script = commands.replace(":8787", f":{port}").replace("sandbox --quiet", f"sandbox --port {port} --quiet")
    wait = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 $!; done\n"
    first, background, rest = script.partition("&\n")
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    process = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill %1' EXIT\n{first}{background}{wait}{rest}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=env,
        check=False,
    )
    assert process.returncode == 0, process
    if document == "cli":
        assert (tmp_path / "gold.csv").read_text("utf-8").startswith("time,")
        assert len((tmp_path / "orders.csv").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize("name", ["one", "two"])
def test_readme_contains_both_commands(name):
    match = re.search(rf"<!-- command {name} -->\n```sh\n(.*)\n```\n", README)
    assert match
    words = shlex.split(match[1])
    assert words[:4] == ["python3", "-m", "venv", ".venv"]
    assert ("demo" if name == "one" else "pytest") in words


def test_table_of_errors_is_complete():
    names = set(re.findall(r"`([A-Z]\w+)`", " ".join(row[0] for row in table(section("errors", "All errors")))))
    bases = {"MintedConnectError", "NotSent"}
    assert names - {"ValueError", "TimeoutError"} == set(errors.__all__) - bases - NOT_ERRORS
    for name in bases | names - {"ValueError", "TimeoutError"}:
        assert issubclass(getattr(minted_connect, name), MintedConnectError), name


def test_readme_names_the_families_of_errors():
    rows = table(section("README", "Errors"))
    for name in re.findall(r"`([A-Z]\w+)`", " ".join(" ".join(row) for row in rows)):
        assert issubclass(getattr(minted_connect, name), MintedConnectError), name
    families = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    rest = {cls.__name__ for cls in MintedConnectError.__subclasses__() if cls.__module__ == errors.__name__}
    assert families >= rest


def test_readme_counts_match_the_code():
    levels = Counter(str(operation.evidence) for operation in OPERATIONS.values())
    text = " ".join(section("README", "How sure the library is of each operation").split())
    assert f"Of the {len(OPERATIONS)} operations, {levels['documented']} are `documented`" in text
    assert f"{levels['partly documented']} are `partly documented`, and {levels['inferred']} are `inferred`" in text
    assert f"{len(KINDS)} kinds of faults" in section("README", "Testing your own code")


def test_table_of_faults_matches_the_registry():
    assert GUIDES["testing"].partition("<!-- faults -->\n")[2].partition("<!-- /faults -->")[0] == faults_table()


def test_every_open_question_is_listed():
    documented = [row[0] for row in table(section("evidence", "Questions for staging"))]
    assert documented == [f"S{number}" for number in range(1, 28)]
    documented += [row[0] for row in table(section("money-safety", "Open questions, as settings"))]
    for file in PACKAGE.rglob("*.py"):
        assert set(re.findall(r"\b[SQ][0-9]{1,2}\b", file.read_text("utf-8"))) <= set(documented), file.name


def test_methods_named_in_readme_exist():
    for name, methods in table(section("README", "What there is")):
        for client in (minted_connect.AsyncMintedConnect, minted_connect.MintedConnect):
            resource = getattr(client("user", "password"), name.strip("`"))
            for method in re.findall(r"`(\w+)`", methods.partition("(")[0] + methods.partition(")")[2]):
                assert callable(getattr(resource, method)), f"{name}.{method}"


def test_imported_names_are_public():
    text = "\n".join(DOCUMENTS.values())
    for names in re.findall(r"^from minted_connect import (.+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= set(minted_connect.__all__)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_has_a_target(document):
    # A guide is read on a forge, in the installed package and on the site: it links other guides only.
    prefix = "minted_connect/guides/" if document == "README" else ""
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document]):
        file, _, anchor = target.partition("#")
        name = file.removeprefix(prefix).removesuffix(".md") if file else document
        if file.startswith("https://") or (document == "README" and name not in GUIDES):
            assert file.startswith("https://") or (ROOT / file).exists(), target
            continue
        assert not file or file == f"{prefix}{name}.md", target
        assert name in DOCUMENTS, target
        assert not anchor or anchor in slugs(name), target


def test_readme_links_every_guide():
    assert set(re.findall(r"\]\(minted_connect/guides/([\w-]+)\.md", README)) == set(GUIDES)


def test_named_files_exist():
    for name, text in DOCUMENTS.items():
        for file in re.findall(r"`((?:minted_connect|tests|benchmarks|docs)/[\w./-]*)`", text):
            base = PACKAGE.parent if file.startswith("minted_connect") else ROOT
            assert (base / file).exists(), f"{name}: {file}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_no_local_path_or_host(document):
    text = DOCUMENTS[document]
    assert not re.search(r"/(home|root|work|Users|tmp|mnt|opt)/", text)
    assert not re.search(r"--(extra-)?index-url|\.internal\b|\.local\b|\.corp\b", text)
    hosts = set(re.findall(r"https?://([^\s/)\"`]+)", text)) - {"..."}
    # files.example.com is the default target of the fault `redirect`; the host does not exist.
    assert hosts <= {
        "docs.mintedconnect.com",
        "api.staging.mintedconnect.com",
        "127.0.0.1:8787",
        "files.example.com",
    }
