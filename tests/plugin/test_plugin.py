"""The pytest plugin: its mark, the closing of clients, and no imports until a fixture is used."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minted_connect.errors import ClientClosedError


def run_pytest(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(textwrap.dedent(code), "utf-8")
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def test_plugin_imports_nothing_before_a_fixture_is_used(tmp_path: Path) -> None:
    code = """
        import sys
        def test_it():
            heavy = {"aiohttp", "minted_connect.client", "minted_connect.sandbox", "cattrs"}
            assert not heavy & set(sys.modules)
            assert "minted_connect.pytest_plugin" in sys.modules
    """
    # Other plugins may import parts of the package.
    result = run_pytest(tmp_path, code, "-p", "no:anyio")
    assert result.returncode == 0, result.stdout


def test_plugin_lists_fixtures_and_mark(tmp_path: Path) -> None:
    listed = run_pytest(tmp_path, "", "--fixtures").stdout
    for name in ("sandbox", "client", "blocking_client", "faults", "clock"):
        assert f"minted_{name}" in listed
    assert "@pytest.mark.minted(" in run_pytest(tmp_path, "", "--markers").stdout


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("@pytest.mark.minted(sead=1)\ndef test_it(minted_sandbox): ...", "sead"),
        ("@pytest.mark.minted(real_time=True)\ndef test_it(minted_clock): ...", "minted_clock: not available"),
    ],
)
def test_mark_with_wrong_argument_is_reported(tmp_path: Path, code: str, says: str) -> None:
    result = run_pytest(tmp_path, f"import pytest\n{code}\n")
    assert result.returncode == 1
    assert says in result.stdout
    assert "the mark minted(" in result.stdout


def test_seed_is_shown_for_failing_tests_only(tmp_path: Path) -> None:
    code = """
        def test_fails(minted_sandbox):
            assert minted_sandbox.seed is None
    """
    result = run_pytest(tmp_path, code)
    seed = re.search(r"^seed=(\d+)$", result.stdout, re.MULTILINE)
    assert seed, result.stdout
    repeated = f"""
        import pytest
        @pytest.mark.minted(seed={seed[1]})
        def test_passes(minted_sandbox):
            assert minted_sandbox.seed == {seed[1]}
    """
    result = run_pytest(tmp_path, repeated)
    assert (result.returncode, "seed=" in result.stdout) == (0, False)


def test_client_fixture_is_closed_after_a_failed_test(tmp_path: Path) -> None:
    code = """
        import asyncio
        import pytest
        from minted_connect import ClientClosedError
        clients = []
        @pytest.mark.anyio
        async def test_it(minted_client):
            clients.append(minted_client)
            await minted_client.rates.current()
            raise RuntimeError("on purpose")
        def test_after():
            with pytest.raises(ClientClosedError, match="is closed"):
                asyncio.run(clients[0].rates.current())
    """
    result = run_pytest(tmp_path, code, "-k", "asyncio or after")
    assert "1 failed, 1 passed" in result.stdout, result.stdout
    assert "ResourceWarning" not in result.stdout + result.stderr


@pytest.mark.minted(real_time=True)
async def test_mark_real_time_uses_the_system_clock(minted_client, minted_sandbox) -> None:
    async with minted_client.rates.feed(interval=0.05) as feed:
        async for tick in feed.subscribe():
            if tick.number == 2:
                break
    assert minted_sandbox.requests.total >= 2


async def test_client_fixture_closed_by_the_test_stays_closed(minted_client) -> None:
    await minted_client.aclose()
    with pytest.raises(ClientClosedError):
        await minted_client.rates.current()


def test_client_fixture_in_sync_test_sends_nothing(minted_client, minted_sandbox) -> None:
    assert minted_client.baskets is not None
    assert minted_sandbox.requests.total == 0
