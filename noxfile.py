"""Every check of the project: `nox -l` lists them, `nox` runs those that guard a change."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "coverage"]

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = [
    row.rsplit(" ", 1)[1]
    for row in PROJECT["project"]["classifiers"]
    if row.startswith("Programming Language :: Python :: 3.")
]
SANDBOX = "minted_connect/sandbox/*"
ROUTE_TESTS = (
    *("core", "test_transport.py", "test_tls.py", "test_injection.py", "test_dead_pool.py", "matrix", "peers"),
    *("test_closed_handshakes.py", "test_network_settings.py", "test_leaks.py", "test_privacy.py", "test_forks.py"),
    "completion/test_cancel_sweep.py",
)
"""The tests of how requests are sent, which must pass by both routes."""
TWO_PROCESSES = ("-n", "2", "--dist", "loadgroup")


def groups(session: nox.Session, *names: str) -> None:
    session.install("-q", "-U", "pip>=25.1")
    session.install("-q", "-e", ".", *(f"--group={name}" for name in names))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: every rule but the commented ones, and the formatter."""
    groups(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict and pyright strict, also over README and guides, and a public API that is typed to 100 %."""
    groups(session, "typing")
    # Not in a hidden directory, which pyright ignores.
    programs = ROOT / "build" / "programs"
    shutil.rmtree(programs, ignore_errors=True)
    session.run("python", "-m", "tests.snippets", str(programs))
    for paths in ([], [str(programs)]):
        session.run("mypy", *paths)
        session.run("pyright", *paths)
    session.run("pyright", "--verifytypes", "minted_connect", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, warnings as errors, in development mode; on every installed Python from 3.11 up."""
    groups(session, "test-integrations")
    session.run("python", "-X", "dev", "-m", "pytest", *TWO_PROCESSES, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that the quick suite leaves out (`SLOW` in tests/conftest.py), and quick tests by the session route."""
    groups(session, "test-integrations")
    session.run("python", "-X", "dev", "-m", "pytest", *TWO_PROCESSES, "-m", "slow", *session.posargs)
    run_route_tests(session, "session", "-m", "not slow")


@nox.session
def routes(session: nox.Session) -> None:
    """The tests of how requests are sent, by the route that serves where the direct one is not available."""
    groups(session, "test-integrations")
    run_route_tests(session, "session", *session.posargs)


@nox.session
@nox.parametrize("release", ["oldest", "newest", "pre-release"])
def aiohttp(session: nox.Session, release: str) -> None:
    """The tests of how requests are sent, by both routes, with the oldest and newest aiohttp that are allowed."""
    groups(session, "test-integrations")
    required = next(row for row in PROJECT["project"]["dependencies"] if row.startswith("aiohttp"))
    oldest = required.partition(">=")[2].partition(",")[0]
    wanted = {"oldest": (f"aiohttp=={oldest}",), "newest": ("-U", required), "pre-release": ("-U", "--pre", "aiohttp")}
    session.install("-q", *wanted[release])
    for route in ("auto", "session"):
        run_route_tests(session, route, *session.posargs)


def run_route_tests(session: nox.Session, route: str, *more: str) -> None:
    tests = [f"tests/{name}" for name in ROUTE_TESTS]
    session.run("python", "-X", "dev", "-m", "pytest", "-q", *TWO_PROCESSES, "--route", route, *more, *tests)


@nox.session
def coverage(session: nox.Session) -> None:
    """All tests with branch coverage: the client side must reach 98 %; the sandbox's figure is printed below."""
    groups(session, "test")
    # Without -X dev, for time's sake: the tests have run with it.
    session.run("coverage", "erase")
    session.run("python", "-m", "coverage", "run", "-m", "pytest", *TWO_PROCESSES, *session.posargs)
    session.run("coverage", "combine", "-q")
    session.run("coverage", "report", f"--omit={SANDBOX}", "--skip-covered", "--fail-under=98")
    session.run("coverage", "report", f"--include={SANDBOX}", "--skip-covered")


@nox.session
def chaos(session: nox.Session) -> None:
    """Make 20,000 purchases with everything going wrong at random: none twice, none lost."""
    groups(session, "test")
    session.run("python", "-m", "tests.completion.chaos", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """A mixed load with one request in twenty going wrong: ten minutes, or `nox -s soak -- MINUTES`."""
    groups(session, "test")
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def soak_feed(session: nox.Session) -> None:
    """Count the ticks of a feed at ten a second: thirty minutes, or `nox -s soak_feed -- MINUTES`."""
    groups(session, "test")
    session.run("python", "-m", "tests.feed.soak", *session.posargs)


@nox.session
def stateful(session: nox.Session) -> None:
    """Purchases through 100,000 random steps: faults, cancellations, crashes, restarts, two machines."""
    groups(session, "test")
    session.run(
        *("python", "-m", "pytest", "-q", "-s", "--timeout=0", "tests/completion/test_stateful.py", *session.posargs),
        env={"STATEFUL_STEPS": "100000"},
    )


@nox.session
def mutations(session: nox.Session) -> None:
    """Break the code that each statement of the scorecard rests on: a test that proves the statement must fail."""
    groups(session, "typing")
    session.run(
        *("python", "-m", "pytest", "-q", "-rP", "--durations=5", "tests/test_mutations.py", *session.posargs),
        env={"MUTATIONS": "all"},
    )


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel, check what is in them, and run the sdist's tests against the wheel."""
    session.install("-q", "-U", "pip>=25.1", "build")
    target = Path(session.create_tmp()).resolve()
    shutil.rmtree(target, ignore_errors=True)
    session.run("python", "-m", "build", "-q", "--outdir", str(target), str(ROOT))
    (wheel,) = target.glob("*.whl")
    (sdist,) = target.glob("*.tar.gz")
    names = set(session.run("python", "-m", "zipfile", "-l", str(wheel), silent=True).split())
    guides = {str(path.relative_to(ROOT)) for path in (ROOT / "minted_connect" / "guides").glob("*.md")}
    needed = {"minted_connect/py.typed", "minted_connect/sandbox/console.html", *guides}
    if not needed <= names or any(name.startswith("tests/") for name in names):
        session.error("the wheel must hold py.typed, the page of the console, the guides and no tests")
    session.run("python", "-m", "tarfile", "-e", str(sdist), str(target), silent=True)
    (source,) = (path for path in target.iterdir() if path.is_dir())
    shutil.rmtree(source / "minted_connect")
    session.install("-q", str(wheel))
    session.chdir(source)
    session.install("-q", "--group", "test")
    session.run("python", "-X", "dev", "-m", "pytest", "-q", *TWO_PROCESSES, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write guides and API reference to `site/`; warnings and dead links are errors."""
    groups(session, "docs")
    session.run("python", ".docs/build.py", "site")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure the SDK beside its peers: ratios from one run."""
    groups(session, "benchmarks")
    session.run("python", "-m", "benchmarks", *session.posargs)
