"""Fixtures of the journal tests: a PostgreSQL server, a database for each test, and a journal location."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minted_connect.journal.memory import MemoryJournal
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.shops import Shop
from tests.support.postgres import Cluster, Database, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    with cluster.database() as database:
        yield database


@pytest.fixture(params=["sqlite", "postgres"])
def journal_location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or URL of a journal that outlives its process."""
    return str(tmp_path / "journal.db") if request.param == "sqlite" else request.getfixturevalue("database").url


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, connect: Any, sandbox: Sandbox, clock: ManualClock, tmp_path: Path) -> Shop:
    location: Any = MemoryJournal()
    if request.param != "memory":
        location = tmp_path / "j.db" if request.param == "sqlite" else request.getfixturevalue("database").url
    return Shop(connect, sandbox, clock, location)
