"""Each mutation breaks the code that a statement of the scorecard rests on; a test that proves the statement must fail.

A copy of the package is changed and imported in place of the original, in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[1]
FAILED = 1
"""Exit code of pytest when tests have failed."""


@attrs.frozen
class Mutation:
    """One change of the package, and the file whose tests must notice it."""

    requirement: int
    name: str
    module: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        45,
        "a throttled completion is sent again",
        "core/retry.py",
        "        may_retry = False\n    elif isinstance(error, APIError):",
        "        may_retry = isinstance(error, RateLimited)\n    elif isinstance(error, APIError):",
        "completion/test_end_to_end.py",
    ),
    Mutation(
        46,
        "a refusal is confirmed by the first poll",
        "completion/reconcile.py",
        "            return began >= self._responded_at + wait",
        "            return True",
        "completion/test_policy.py",
    ),
    Mutation(
        46,
        "a stored refusal is believed at once",
        "completion/reconcile.py",
        "server_time >= refusal.at + timedelta(seconds=wait) + _DATE_RESOLUTION",
        "server_time >= refusal.at",
        "completion/test_policy.py",
    ),
    Mutation(
        48,
        "every intent counts as one of this account",
        "completion/settlement.py",
        "        return intent.account in {self.owner.account, None}",
        "        return True",
        "completion/test_journal_accounts.py",
    ),
    Mutation(
        49,
        "a lost record is not logged at ERROR",
        "journal/sql.py",
        '        _logger.error(\n            "intent %s: its record is lost',
        '        _logger.debug(\n            "intent %s: its record is lost',
        "completion/test_journal_lost.py",
    ),
    Mutation(
        49,
        "an unreadable record is not reported",
        "journal/sql.py",
        "                unreadable.append(_id_of(row))",
        "                pass",
        "completion/test_journal_lost.py",
    ),
    Mutation(
        50,
        "a second closer stops the shutdown",
        "blocking/loop_thread.py",
        "        if not self.closing:\n            self.closing = True\n            self.loop.stop()",
        "        self.closing = True\n        self.loop.stop()",
        "blocking/test_closing.py",
    ),
    Mutation(
        50,
        "a second closer does not wait",
        "client.py",
        "        elif closing.get_loop() is asyncio.get_running_loop():",
        "        elif False:",
        "test_aclose.py",
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.requirement}-{mutation.name}")
def test_mutation_is_killed(mutation: Mutation, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "minted_connect", tmp_path / "minted_connect", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "minted_connect" / mutation.module
    source = changed.read_text("utf-8")
    assert source.count(mutation.old) == 1
    changed.write_text(source.replace(mutation.old, mutation.new), "utf-8")
    # -P: without the current directory on the path, the copy comes before the original.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--requirement", str(mutation.requirement), f"tests/{mutation.tests}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FAILED, done.stdout
