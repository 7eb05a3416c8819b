"""The pytest plugin: its marks, closing of clients, and no imports while no fixture is used."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minted_connect.errors import ClientClosedError


def pytest_run(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(textwrap.dedent(code), "utf-8")
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )


def test_nothing_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    code = """
        import sys
        def test_it():
            heavy = {"aiohttp", "minted_connect.client", "minted_connect.sandbox", "cattrs"}
            assert not heavy & set(sys.modules)
            assert "minted_connect.pytest_plugin" in sys.modules
    """
    # Other plugins may import parts of the package.
    found = pytest_run(tmp_path, code, "-p", "no:anyio")
    assert found.returncode == 0, found.stdout


def test_the_fixtures_and_the_mark_are_listed(tmp_path: Path) -> None:
    listed = pytest_run(tmp_path, "", "--fixtures").stdout
    for name in ("sandbox", "client", "blocking_client", "faults", "clock"):
        assert f"minted_{name}" in listed
    assert "@pytest.mark.minted(" in pytest_run(tmp_path, "", "--markers").stdout


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("@pytest.mark.minted(sead=1)\ndef test_it(minted_sandbox): ...", "sead"),
        ("@pytest.mark.minted(real_time=True)\ndef test_it(minted_clock): ...", "minted_clock: not available"),
    ],
)
def test_a_wrong_mark_is_told(tmp_path: Path, code: str, says: str) -> None:
    found = pytest_run(tmp_path, f"import pytest\n{code}\n")
    assert found.returncode == 1
    assert says in found.stdout
    assert "the mark minted(" in found.stdout


def test_a_failing_test_shows_the_seed_and_a_passing_one_does_not(tmp_path: Path) -> None:
    code = """
        def test_fails(minted_sandbox):
            assert minted_sandbox.seed is None
    """
    found = pytest_run(tmp_path, code)
    shown = re.search(r"^seed=(\d+)$", found.stdout, re.MULTILINE)
    assert shown, found.stdout
    repeated = f"""
        import pytest
        @pytest.mark.minted(seed={shown[1]})
        def test_passes(minted_sandbox):
            assert minted_sandbox.seed == {shown[1]}
    """
    found = pytest_run(tmp_path, repeated)
    assert (found.returncode, "seed=" in found.stdout) == (0, False)


def test_a_client_is_closed_also_when_the_test_fails(tmp_path: Path) -> None:
    code = """
        import asyncio
        import pytest
        from minted_connect import ClientClosedError
        clients = []
        @pytest.mark.anyio
        async def test_it(minted_client):
            clients.append(minted_client)
            await minted_client.rates.current()
            raise RuntimeError("as wanted")
        def test_after():
            with pytest.raises(ClientClosedError, match="is closed"):
                asyncio.run(clients[0].rates.current())
    """
    found = pytest_run(tmp_path, code, "-k", "asyncio or after")
    assert "1 failed, 1 passed" in found.stdout, found.stdout
    assert "ResourceWarning" not in found.stdout + found.stderr


@pytest.mark.minted(real_time=True)
async def test_on_the_clock_of_the_machine(minted_client, minted_sandbox) -> None:
    async with minted_client.rates.feed(interval=0.05) as feed:
        async for tick in feed.subscribe():
            if tick.number == 2:
                break
    assert minted_sandbox.requests.total >= 2


async def test_an_asynchronous_client_that_was_closed_stays_closed(minted_client) -> None:
    await minted_client.aclose()
    with pytest.raises(ClientClosedError):
        await minted_client.rates.current()


def test_a_client_without_a_loop_opens_nothing(minted_client, minted_sandbox) -> None:
    assert minted_client.baskets is not None
    assert minted_sandbox.requests.total == 0
