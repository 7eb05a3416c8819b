"""The soak test of a release, for two seconds, and a check that it detects a lost tick."""

from __future__ import annotations

import sys

import pytest

from minted_connect.feed.hub import Buffered
from tests.feed import soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads its memory use from /proc")


def test_soak_of_two_seconds_loses_no_tick(capsys: pytest.CaptureFixture[str]):
    assert soak.main(["0.035"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "lost: 0, repeated: 0"


def test_soak_detects_lost_ticks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    push = Buffered.push

    def push_except_round_7(self: Buffered, ticks: object) -> None:
        if self._hub.round != 7:
            push(self, ticks)

    monkeypatch.setattr(Buffered, "push", push_except_round_7)
    assert soak.main(["0.035"]) == 1
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("lost: 24, ")
