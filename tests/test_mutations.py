"""Each mutation breaks the code that a statement of the scorecard rests on; a test that proves the statement must fail.

A copy of the package is changed and imported in place of the original, in a process of its own. The gate runs a few
mutations, `nox -s mutations` all of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutations.audits import AUDITS
from tests.mutations.gate import GATE
from tests.mutations.mutation import Mutation
from tests.mutations.purchases import PURCHASES
from tests.mutations.references import REFERENCES
from tests.mutations.requests import REQUESTS
from tests.mutations.responses import RESPONSES, TYPES
from tests.mutations.restoring import RESTORING
from tests.mutations.security import SECURITY
from tests.mutations.settling import SETTLING
from tests.mutations.shapes import SHAPES
from tests.test_scorecard import STATEMENTS

pytestmark = pytest.mark.xdist_group("mutations")  # one process: the last tests need what the others left

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minted_connect"
GATED = [*GATE, *SETTLING, *AUDITS]
ALL = [*GATED, *REQUESTS, *PURCHASES, *RESTORING, *REFERENCES, *RESPONSES, *SECURITY, *SHAPES]
SELECTED = ALL if os.environ.get("MUTATIONS") == "all" else GATED
TESTS_FAILED = 1
"""Exit code of pytest when tests have failed."""
TIMEOUT = 120
"""Seconds for a mutation. One that makes its test hang is replaced by another one."""
FAILED_TEST = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a copy of the package."""
    directory = tmp_path_factory.mktemp("mutations")
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.fixture(scope="module")
def killers() -> list[str]:
    """Node ids of the tests that failed because of a mutation."""
    return []


def run(copy: Path, *command: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run a module of Python with the copied package."""
    environment = {
        **os.environ,
        # Without the current directory on the path, the copy comes before the original, also in subprocesses.
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": os.pathsep.join([str(copy), str(ROOT)]),
        # One directory for all mutations, so that only the changed module is compiled again.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(copy / "bytecode"),
    }
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def mutate(copy: Path, mutation: Mutation) -> None:
    source = (PACKAGE / mutation.module).read_text("utf-8")
    (copy / PACKAGE.name / mutation.module).write_text(source.replace(mutation.old, mutation.new), "utf-8")


def restore(copy: Path, mutation: Mutation) -> None:
    shutil.copy2(PACKAGE / mutation.module, copy / PACKAGE.name / mutation.module)


def test_each_statement_has_a_mutation() -> None:
    assert {mutation.requirement for mutation in [*ALL, *TYPES]} == set(STATEMENTS)


@pytest.mark.parametrize("mutation", [*ALL, *TYPES], ids=str)
def test_mutation_changes_one_place(mutation: Mutation) -> None:
    assert (PACKAGE / mutation.module).read_text("utf-8").count(mutation.old) == 1
    assert mutation.new != mutation.old


@pytest.mark.timeout(TIMEOUT + 30)
@pytest.mark.parametrize("mutation", SELECTED, ids=str)
def test_mutation_is_killed(mutation: Mutation, copy: Path, killers: list[str]) -> None:
    mutate(copy, mutation)
    try:
        done = run(
            *(copy, "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line"),
            *("--requirement", str(mutation.requirement), "-k", mutation.keyword),
            f"tests/{mutation.tests}",
        )
    finally:
        restore(copy, mutation)
    assert done.returncode == TESTS_FAILED, done.stdout
    failed = FAILED_TEST.findall(done.stdout)
    assert len(failed) == 1, done.stdout + done.stderr
    sys.stdout.write(f"{mutation}: killed by {failed[0]}\n")
    killers += failed


@pytest.mark.timeout(10 * TIMEOUT)
def test_killing_tests_pass_without_mutations(copy: Path, killers: list[str]) -> None:
    if not killers:
        pytest.skip("no mutation was run")
    done = run(copy, "pytest", "-q", "-p", "no:cacheprovider", *sorted(set(killers)), timeout=10 * TIMEOUT)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(SELECTED is not ALL, reason="part of `nox -s mutations`")
@pytest.mark.parametrize("mutation", TYPES, ids=str)
def test_mutation_of_types_is_reported(mutation: Mutation, copy: Path) -> None:
    pytest.importorskip("pyright")
    reports = []
    for change in (restore, mutate):
        change(copy, mutation)
        reports.append(run(copy, "pyright", "--verifytypes", PACKAGE.name, "--ignoreexternal").stdout)
    restore(copy, mutation)
    assert [mutation.tests in report for report in reports] == [False, True], reports
