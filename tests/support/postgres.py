"""A temporary PostgreSQL server on a free loopback port, with password authentication."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import psycopg
from psycopg import sql

from tests.support.programs import find

ADMIN, BUYER = "admin", "canary-role"
PASSWORD = "canary-p@ss/wörd"
START = 20.0  # seconds for the server to start or stop

# No fsync: the data need not survive a power failure. The WAL writer sleeps, so that only a synchronous commit writes
# its records.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "wal_writer_delay": "10s",
    "password_encryption": "scram-sha-256",
}


@attrs.frozen
class Database:
    """A database owned by a role that is not a superuser; `url` is the URL of that role."""

    port: int
    name: str

    @property
    def url(self) -> str:
        return self.url_with()

    def url_with(self, query: str = "", **parts: Any) -> str:
        """Return the URL with some parts replaced: user, password, host, port, name."""
        values = {"user": BUYER, "password": PASSWORD, "host": "127.0.0.1", "port": self.port, "name": self.name}
        values |= parts
        user, password = (quote(values[name], safe="") for name in ("user", "password"))
        return f"postgresql://{user}:{password}@{values['host']}:{values['port']}/{values['name']}?{query}".rstrip("?")

    def connect(self, user: str = ADMIN) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url_with(user=user), autocommit=True)

    def execute(self, statement: str, *values: Any, user: str = ADMIN) -> list[tuple[Any, ...]]:
        with self.connect(user) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


@attrs.define
class Cluster:
    """A PostgreSQL server and its files."""

    binaries: Path
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    databases: int = 0

    def run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        # PostgreSQL refuses to run as root; Debian's packages create an account for it.
        account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [self.binaries / program, "-D", self.folder / "data", *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **account,
            )

    @property
    def log_text(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def template(self) -> Database:
        return Database(self.port, "postgres")

    def initialise(self) -> None:
        (self.folder / "password").write_text(PASSWORD, "utf-8")
        if os.geteuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "postgres", "postgres")
        options = f"-U {ADMIN} --pwfile=password --auth=scram-sha-256 -E UTF8 --no-locale --no-sync".split()
        if self.run("initdb", *options).wait(START) != 0:
            raise RuntimeError(self.log_text)
        self.start()
        statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(BUYER), PASSWORD)
        with self.template.connect() as connection:
            connection.execute(statement)

    def start(self, **more: str) -> None:
        settings = [f"-c{name}={value}" for name, value in {**SETTINGS, "port": self.port, **more}.items()]
        deadline = time.monotonic() + START
        while True:
            if self.process is None or self.process.poll() is not None:
                # After a kill, the processes of the last server may still hold its resources.
                self.process = self.run("postgres", *settings)
            try:
                self.template.connect().close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise RuntimeError(self.log_text) from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT disconnects all clients, SIGQUIT stops without a checkpoint, SIGKILL kills."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(START)

    @contextmanager
    def database(self, options: str = "") -> Iterator[Database]:
        self.databases += 1
        database = Database(self.port, f"journal{self.databases}")
        self.template.execute(f'CREATE DATABASE {database.name} OWNER "{BUYER}" {options}')
        try:
            yield database
        finally:
            self.template.execute(f"DROP DATABASE {database.name} WITH (FORCE)")


@contextmanager
def running() -> Iterator[Cluster]:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: -int(path.parts[-3]))
    initdb = find(*map(str, newest_first), "initdb")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Not pytest's tmp_path, which the account of the server cannot access.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        cluster = Cluster(Path(initdb).resolve().parent, Path(name), port)
        try:
            cluster.initialise()
            yield cluster
        finally:
            cluster.stop()
