"""The modules of the command line export only what other modules use."""

from __future__ import annotations

import re
from pathlib import Path

import minted_connect
from minted_connect.cli import private_files, profiles


def test_exports_of_settings_modules_are_used_elsewhere() -> None:
    files = {file: file.read_text("utf-8") for file in Path(minted_connect.__file__).parent.rglob("*.py")}
    unused = [
        name
        for module in (private_files, profiles)
        for name in module.__all__
        if not any(re.search(rf"\b{name}\b", text) for file, text in files.items() if file != Path(module.__file__))
    ]
    assert unused == []
