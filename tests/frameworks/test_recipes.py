"""The recipes of README and guides, run as applications in separate processes under the usual servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minted_connect.sandbox import ManualClock, ThreadedSandbox
from tests.snippets import RECIPES
from tests.support.redis_server import free_port
from tests.support.subprocesses import until

PRICE = "592.34"
RECIPE = dict(RECIPES)
IMPORTS = {
    "fastapi": """
        from contextlib import asynccontextmanager
        from fastapi import FastAPI, Request
        from minted_connect import AsyncMintedConnect
    """,
    "statuses": """
        from fastapi import FastAPI, Request
        from fastapi.responses import JSONResponse
        from minted_connect import *
    """,
    "aiohttp": """
        from aiohttp import web
        from minted_connect import AsyncMintedConnect
    """,
    "django": """
        import atexit, os
        from functools import cache
        from django.http import JsonResponse
        from minted_connect import AsyncMintedConnect, MintedConnect
    """,
    "worker": """
        from multiprocessing import get_context
        from minted_connect import MintedConnect
    """,
    "notebook": """
        from minted_connect import AsyncMintedConnect, MintedConnect
    """,
}
DJANGO = """
import django
from django.conf import settings
from django.urls import path
settings.configure(DEBUG=False, SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"])
django.setup()
urlpatterns = [path("price", price), path("async", price_async)]
"""


def complete_recipe(name: str, suffix: str = "") -> str:
    imports = "\n".join(line.strip() for line in IMPORTS[name].strip().splitlines())
    return f"{imports}\n\n{RECIPE[name]}\n{suffix}"


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(seed=1, clock=ManualClock()) as server:
        yield server


@pytest.fixture
def environment(sandbox: ThreadedSandbox) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONDEVMODE": "1",
        "MINTED_CONNECT_BASE_URL": sandbox.url,
        "MINTED_CONNECT_USERNAME": sandbox.username,
        "MINTED_CONNECT_PASSWORD": sandbox.password,
    }


def get_price(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return json.load(response)["gold"]
    except (urllib.error.URLError, ConnectionError):
        return None


def unclosed(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if "minted" in line.lower() and "Warning" in line]


@contextmanager
def run_server(folder: Path, environment: dict[str, str], source: str, *arguments: str) -> Iterator[str]:
    """Run `app` of a module under a server, and yield its URL. The server must exit successfully."""
    (folder / "recipe.py").write_text(source, "utf-8")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *[argument.replace("PORT", str(port)) for argument in arguments]],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or get_price(f"{url}/price"))
        yield url
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert unclosed(out) == []
        assert "Traceback" not in out, out
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_every_recipe_has_fewer_than_12_lines() -> None:
    # The others run in tests/completion/test_plan_recipe.py and tests/test_preload.py.
    assert set(RECIPE) == {*IMPORTS, "plan", "lambda"}
    for name in IMPORTS:
        recipe = RECIPE[name]
        assert len([line for line in recipe.splitlines() if line.strip()]) < 12, name


def test_fastapi_recipe_shares_one_client(
    tmp_path: Path, environment: dict[str, str], sandbox: ThreadedSandbox
) -> None:
    server = ("-m", "uvicorn", "recipe:app", "--port", "PORT", "--log-level", "warning")
    with run_server(tmp_path, environment, complete_recipe("fastapi"), *server) as url:
        assert [get_price(f"{url}/price") for _ in range(5)] == [PRICE] * 5
    # One request for the digest handshake of the client, and one for each call.
    assert sandbox.requests.total == 1 + 6


def test_aiohttp_recipe_shares_one_client(
    tmp_path: Path, environment: dict[str, str], sandbox: ThreadedSandbox
) -> None:
    run = "import sys; from recipe import app, web; web.run_app(app, port=int(sys.argv[1]), print=None)"
    with run_server(tmp_path, environment, complete_recipe("aiohttp"), "-c", run, "PORT") as url:
        assert [get_price(f"{url}/price") for _ in range(5)] == [PRICE] * 5
    assert sandbox.requests.total == 1 + 6


def test_django_recipe_under_asgi_works(tmp_path: Path, environment: dict[str, str]) -> None:
    suffix = f"{DJANGO}\nfrom django.core.asgi import get_asgi_application\napp = get_asgi_application()\n"
    server = ("-m", "uvicorn", "recipe:app", "--port", "PORT", "--log-level", "warning", "--lifespan", "off")
    with run_server(tmp_path, environment, complete_recipe("django", suffix), *server) as url:
        assert (get_price(f"{url}/price"), get_price(f"{url}/async")) == (PRICE, PRICE)


def test_django_recipe_under_wsgi_shares_blocking_client(
    tmp_path: Path, environment: dict[str, str], sandbox: ThreadedSandbox
) -> None:
    suffix = f"{DJANGO}\nfrom django.core.wsgi import get_wsgi_application\napp = get_wsgi_application()\n"
    run = """
import sys
from contextlib import suppress
from wsgiref.simple_server import make_server
from recipe import app
with suppress(KeyboardInterrupt), make_server("127.0.0.1", int(sys.argv[1]), app) as server:
    server.serve_forever()
"""
    with run_server(tmp_path, environment, complete_recipe("django", suffix), "-c", run, "PORT") as url:
        assert (get_price(f"{url}/price"), get_price(f"{url}/async"), get_price(f"{url}/async")) == (
            PRICE,
            PRICE,
            PRICE,
        )
    # The blocking client does one digest handshake for its two calls, each asynchronous client a separate one.
    assert sandbox.requests.total == (1 + 2) + 2 * (1 + 1)


def test_worker_recipe_works_after_fork(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "recipe.py").write_text(complete_recipe("worker"), "utf-8")
    process = subprocess.run(
        [sys.executable, "recipe.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stdout) == (0, "['592.34', '9.92']\n"), process.stderr
    assert unclosed(process.stderr) == []


def test_notebook_recipe_prints_prices(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Keep the test away from the kernels and the history of the user.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    first, second = re.split(r"\n\n", RECIPE["notebook"])
    imports = IMPORTS["notebook"].strip()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (imports, first, second)])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    shown = [output.text for cell in book.cells for output in cell.outputs if output.output_type == "stream"]
    assert shown == [f"blocking {PRICE}\n", f"awaited {PRICE}\n"]
