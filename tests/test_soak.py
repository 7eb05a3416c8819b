"""The soak test, for one second."""

from __future__ import annotations

import sys

import pytest

from tests import soak


@pytest.mark.requirement(41)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("quirks", [[], ["--quirks", "laravel"]], ids=["plain", "quirks"])
def test_soak_of_one_second_succeeds(quirks: list[str], capsys: pytest.CaptureFixture[str]):
    assert soak.main(["0.02", *quirks]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.endswith("unknown left: 0")
