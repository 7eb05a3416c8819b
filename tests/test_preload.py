"""`preload`, and the recipe for short-lived functions, in processes that have imported nothing else."""

from __future__ import annotations

import os
import subprocess
import sys

from minted_connect.sandbox import ThreadedSandbox
from tests.snippets import RECIPES, ROOT

PRELOAD = """
import sys, threading
import minted_connect
minted_connect.preload()
minted_connect.preload()
before = set(sys.modules)
from minted_connect.core import converter
prepared = converter._hook.cache_info().misses
threads = threading.active_count()
with minted_connect.MintedConnect(sys.argv[1], sys.argv[2], base_url=sys.argv[3]) as minted:
    minted.rates.current(), minted.rates.history(metal="gold"), minted.products.page(), minted.orders.page()
    minted.customers.create("customer-1"), minted.wallet.balance("customer-1")
    minted.baskets.add_item("customer-1", sku="MNTBAE0001")
late = {name for name in set(sys.modules) - before if name.startswith(("minted_connect", "aiohttp", "attrs", "cattrs"))}
print(threads, converter._hook.cache_info().misses - prepared, sorted(late))
"""
LAMBDA = """
from minted_connect import MintedConnect, preload
{recipe}
class Context:
    def get_remaining_time_in_millis(self):
        return 5000
for metal in ("gold", "silver", "gold"):
    (price,) = handler({{"metal": metal}}, Context()).items()
    print(price[0], float(price[1]) > 0)
minted.close()
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return process.stdout


def test_preload_leaves_nothing_to_the_first_calls():
    with ThreadedSandbox(seed=1) as server:
        assert run(PRELOAD, server.username, server.password, server.url) == "1 0 []\n"


def test_recipe_for_short_lived_functions_runs():
    with ThreadedSandbox(seed=1) as server:
        shown = run(
            LAMBDA.format(recipe=dict(RECIPES)["lambda"]),
            MINTED_CONNECT_USERNAME=server.username,
            MINTED_CONNECT_PASSWORD=server.password,
            MINTED_CONNECT_BASE_URL=server.url,
        )
    assert shown == "gold True\nsilver True\ngold True\n"
