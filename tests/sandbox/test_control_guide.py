"""The HTTP interface of the sandbox, as the guide to testing shows it with curl."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from minted_connect.sandbox import ThreadedSandbox
from minted_connect.sandbox.clock import MovableClock
from tests.snippets import GUIDES

(SCRIPT,) = re.findall(r"^<!-- curl -->\n```sh\n(.*?)^```$", GUIDES["testing"], re.MULTILINE | re.DOTALL)
ROUTES = re.findall(r"^\| `(\w+) (/_sandbox/[\w/]+)` \|", GUIDES["testing"], re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_curl_line_of_the_guide_works():
    with ThreadedSandbox(seed=1, username="sandbox", password="secret", clock=MovableClock()) as server:
        script = SCRIPT.replace("http://127.0.0.1:8787", server.url)
        assert script != SCRIPT
        process = subprocess.run(
            ["bash", "-euc", script], capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL
        )
        log = [(entry.operation, entry.status) for entry in server.requests if entry.status != 401]

    assert (process.returncode, process.stderr) == (0, "")
    assert log == [("customers.create", 200), ("rates.current", 200)]
    decoder, responses, text = json.JSONDecoder(), [], process.stdout
    while text:
        value, end = decoder.raw_decode(text)
        responses.append(value)
        text = text[end:].lstrip()
    created, added, removed, rates, moved, _, state = responses
    assert created["data"]["external_id"] == "curl-1"
    assert rates["success"] is True
    assert ([fault["id"] for fault in added["faults"]], removed["faults"]) == ([1], [])
    assert moved["now"] > added["now"]
    assert {"now", "prices", "baskets", "orders", "wallets", "requests", "faults", "kinds"} <= state.keys()


def test_guide_lists_every_route():
    used = set(re.findall(r"\bcontrol ([\w/]+)", SCRIPT))
    assert {route.removeprefix("/_sandbox/") for _, route in ROUTES} == used | {"state"}
