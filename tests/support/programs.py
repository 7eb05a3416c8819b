"""Servers that are installed beside us: where they are, and what it means if they are not there."""

import os
import shutil

import pytest


def find(*candidates):
    """The first of these programs that exists; without one, CI fails and a developer's machine skips."""
    for candidate in candidates:
        if path := shutil.which(candidate, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            return path
    reason = f"{' or '.join(os.path.basename(candidate) for candidate in candidates)} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
