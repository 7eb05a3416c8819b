"""Paths of installed programs, such as servers."""

import os
import shutil

import pytest


def find(*candidates):
    """Return the path of the first of these programs that exists; if none exists, fail in CI and skip elsewhere."""
    for candidate in candidates:
        if path := shutil.which(candidate, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
            return path
    reason = f"{' or '.join(os.path.basename(candidate) for candidate in candidates)} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
