"""The code blocks of README and guides; `python -m tests.snippets DIRECTORY` writes the complete programs there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs

import minted_connect

ROOT = Path(__file__).parents[1]
PACKAGE = Path(minted_connect.__file__).parent
README = (ROOT / "README.md").read_text("utf-8")
GUIDES = {path.stem: path.read_text("utf-8") for path in sorted((PACKAGE / "guides").glob("*.md"))}
DOCUMENTS = {"README": README, **GUIDES}

_PROGRAM = re.compile(r"(?<!-->\n)^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RECIPE = re.compile(r"^<!-- recipe (\w+) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Program:
    """A code block that is a complete program."""

    document: str
    number: int
    code: str

    @property
    def name(self) -> str:
        return f"{self.document}-{self.number}"


PROGRAMS = [
    Program(name, number, code)
    for name, text in DOCUMENTS.items()
    for number, code in enumerate(_PROGRAM.findall(text), 1)
]
RECIPES = [(name, code) for text in DOCUMENTS.values() for name, code in _RECIPE.findall(text)]
"""Names and code of the recipes; `tests/frameworks` completes them to programs."""


def write_programs(folder: Path) -> list[Path]:
    """Write each program to a file that type checkers accept as a module."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{program.name.replace('-', '_').lower()}.py" for program in PROGRAMS]
    for file, program in zip(files, PROGRAMS, strict=True):
        file.write_text(program.code, "utf-8")
    return files


if __name__ == "__main__":
    write_programs(Path(sys.argv[1]))
