"""Apache httpd and lighttpd as peers of the Digest client: started once per session, on a free loopback port."""

import hashlib
import os
import pwd
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import attrs
import pytest

from minted_connect.core.auth.digest import DigestAuth
from tests.support.programs import find

REALM = "Minted Connect"
USERS = {"partner": 'pass:word "x"', "Gümüş Ltd": "şifre"}
START = 10.0  # seconds for a server to start or stop


@pytest.fixture
def anyio_backend():
    return "asyncio"


@contextmanager
def run_server(configure):
    """Run a server and yield its URL; `configure(folder, port)` writes its files and returns the command."""
    # Not pytest's tmp_path, which the account of the server cannot access.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = configure(folder, port)
        log = folder / "output.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for_port(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_port(process, port, log):
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server does not start: {log.read_text(errors='replace')}")
            time.sleep(0.02)


def write_pages(folder, *names):
    for name in names:
        page = folder / "www" / name / "page.txt"
        page.parent.mkdir(parents=True)
        page.write_text("gold\n")


def htdigest(path, *hashes):
    """Write an htdigest file; with several hash functions, with the hashed user name that lighttpd supports."""
    lines = []
    for hash_function in hashes:
        for user, password in USERS.items():
            ha1, userhash = (
                hash_function(":".join(parts).encode()).hexdigest()
                for parts in ((user, REALM, password), (user, REALM))
            )
            lines.append(f"{user}:{REALM}:{ha1}" + f":{userhash}" * (len(hashes) > 1))
    path.write_text("\n".join([*lines, ""]), "utf-8")
    return path


def httpd_auth_directives(folder):
    """Return the Digest directives that every section of Apache httpd needs: sections do not inherit some of them."""
    return f"""
        AuthType Digest
        AuthName "{REALM}"
        AuthDigestProvider file
        AuthUserFile "{htdigest(folder / "users", hashlib.md5)}"
        Require valid-user
    """


@pytest.fixture(scope="session")
def apache():
    """Run Apache httpd with MD5: below `/short/` a nonce expires after one second, below `/long/` it does not."""
    binary = find("apache2", "httpd")
    folders = (Path(prefix, "modules") for prefix in ("/usr/lib/apache2", "/usr/lib64/httpd", "/usr/libexec/apache2"))
    modules = next((folder for folder in folders if folder.is_dir()), None)
    assert modules, "the folder of the modules of httpd is unknown"

    def configure(folder, port):
        write_pages(folder, "long", "short")
        names = ("mpm_event", "unixd", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest")
        lines = [
            f"LoadModule {name}_module {modules}/mod_{name}.so"
            for name in names
            if (modules / f"mod_{name}.so").exists()  # Debian compiles unixd into httpd
        ]
        if os.geteuid() == 0:  # httpd does not serve as root
            account = next(
                name for name in ("www-data", "apache", "nobody") if name in {u.pw_name for u in pwd.getpwall()}
            )
            lines.append(f"User {account}")
        login = httpd_auth_directives(folder)
        lines.append(f"""
            ServerRoot "{folder}"
            ServerName 127.0.0.1
            Listen 127.0.0.1:{port}
            PidFile "{folder}/httpd.pid"
            DefaultRuntimeDir "{folder}"
            ErrorLog "{folder}/error.log"
            DocumentRoot "{folder}/www"
            StartServers 1
            KeepAlive On
            <Location "/">
                {login}
            </Location>
            <Location "/short/">
                {login}
                AuthDigestNonceLifetime 1
            </Location>
        """)
        (folder / "httpd.conf").write_text("\n".join(lines))
        return [binary, "-f", str(folder / "httpd.conf"), "-DFOREGROUND"]

    with run_server(configure) as url:
        yield url


@pytest.fixture(scope="session")
def lighttpd():
    """Run lighttpd with one folder for each set of algorithms."""
    binary = find("lighttpd")
    offers = {
        "md5": "MD5",
        "sha256": "SHA-256",
        "sha512-256": "SHA-512-256",
        "all": "MD5|SHA-256|SHA-512-256",
        "userhash": "SHA-256",
    }

    def configure(folder, port):
        write_pages(folder, *offers)
        # lighttpd tells algorithms apart by the length of HA1 only, so these two need separate files.
        sha256 = htdigest(folder / "sha256", hashlib.md5, hashlib.sha256)
        sha512_256 = htdigest(folder / "sha512-256", hashlib.md5, lambda data: hashlib.new("sha512_256", data))
        rules = ",\n".join(
            f'"/{name}/" => ("method" => "digest", "algorithm" => "{offer}", "realm" => "{REALM}", '
            f'"require" => "valid-user", "userhash" => "{"enable" if name == "userhash" else "disable"}")'
            for name, offer in offers.items()
        )
        (folder / "lighttpd.conf").write_text(f"""
            server.document-root = "{folder}/www"
            server.bind = "127.0.0.1"
            server.port = {port}
            server.modules = ("mod_auth", "mod_authn_file")
            auth.backend = "htdigest"
            auth.backend.htdigest.userfile = "{sha256}"
            $HTTP["url"] =~ "^/(sha512-256|all)/" {{ auth.backend.htdigest.userfile = "{sha512_256}" }}
            auth.require = ({rules})
        """)
        return [binary, "-D", "-f", str(folder / "lighttpd.conf")]

    with run_server(configure) as url:
        yield url


@attrs.define
class ApiClient:
    """`DigestAuth` on an aiohttp session; a call with a target returns the status."""

    url: str
    session: aiohttp.ClientSession
    auth: DigestAuth
    #: Every response, in order: the `Authorization` sent, the status, and the `WWW-Authenticate` values.
    log: list[tuple[str | None, int, list[str]]] = attrs.field(factory=list)

    @property
    def counts(self):
        """The number of unsigned and of signed requests."""
        signed = sum(1 for header, _, _ in self.log if header)
        return len(self.log) - signed, signed

    async def fetch(self, target, header=None):
        headers = {} if header is None else {"Authorization": header}
        async with self.session.get(self.url + target, headers=headers) as response:
            if response.status == 200:
                assert await response.text() == "gold\n"
            challenges = response.headers.getall("WWW-Authenticate", [])
            self.log.append((header, response.status, challenges))
            return response.status, challenges, response.headers.getall("Authentication-Info", [])

    async def __call__(self, target):
        async with self.auth.auth_flow() as flow:
            while True:
                status, challenges, info = await self.fetch(target, flow.header("GET", target))
                if status != 401:
                    flow.on_success(info)
                    return status
                if not flow.on_challenge(challenges):
                    return status


@pytest.fixture
async def connect():
    """Return a function that makes a client for a URL; the clients of a test share a session."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16)) as session:

        def make_client(url, user="partner", password=None):
            return ApiClient(url, session, DigestAuth(user, USERS[user] if password is None else password))

        yield make_client
