"""What the tests of journals share: a PostgreSQL server, and a database of it for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Cluster, Database, running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    with cluster.database() as database:
        yield database
