"""Code in docstrings runs."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minted_connect"
PRELUDE = "from minted_connect import *; from minted_connect.sandbox import *"
RUN = """
import ast, asyncio, inspect, sys
space = {}
exec(sys.argv[1], space)
made = eval(compile(sys.argv[2], "docstring", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), space)
if inspect.iscoroutine(made):
    asyncio.run(made)
"""


def snippets() -> Iterator[object]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                parts = (ast.get_docstring(node) or "").split("```python\n")[1:]
                for part in parts:
                    name = getattr(node, "name", file.stem)
                    yield pytest.param(textwrap.dedent(part.partition("```")[0]), id=f"{file.stem}-{name}")


def test_docstrings_contain_snippets() -> None:
    assert len([*snippets()]) >= 2


@pytest.mark.parametrize("snippet", [*snippets()])
def test_docstring_snippet_runs(snippet: str) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", RUN, PRELUDE, snippet],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (process.returncode, [line for line in process.stderr.splitlines() if "took" not in line]) == (0, [])
