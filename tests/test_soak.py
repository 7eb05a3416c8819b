"""The soak that runs for hours before a release, for a second."""

from __future__ import annotations

import sys

import pytest

from tests import soak


@pytest.mark.requirement(41)
@pytest.mark.skipif(sys.platform != "linux", reason="weighs itself in /proc")
def test_a_second_of_it(capsys: pytest.CaptureFixture[str]):
    assert soak.main(["0.02"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.endswith("unknown left: 0")
