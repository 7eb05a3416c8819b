"""The console of the sandbox in a real browser: its text and its buttons."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minted_connect import MintedConnect
from minted_connect.sandbox import ManualClock, ThreadedSandbox

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
CUSTOMER = "shop-customer-1"
GOLD = "MNTBAE0001"
PATIENCE = 20.0

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="chromium or chromedriver is not installed"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,1000",
    ):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(executable_path=str(DRIVER)))
    yield driver
    driver.quit()
    # Selenium leaves its connections to the driver to the garbage collector.
    import gc
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with ThreadedSandbox(clock=ManualClock(auto_advance=True)) as server:
        yield server


@pytest.fixture
def minted(sandbox: ThreadedSandbox) -> Iterator[MintedConnect]:
    with MintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url) as client:
        yield client


class Console:
    def __init__(self, browser, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def wait(self, condition: Callable[[], object]) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition())

    def text(self, element_id: str) -> str:
        return str(self.browser.execute_script("return document.getElementById(arguments[0]).innerText", element_id))

    def click(self, selector: str) -> None:
        self.browser.find_element("css selector", selector).click()

    def log_errors(self) -> list[object]:
        return [entry for entry in self.browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]

    def requested(self) -> set[str]:
        import json

        messages = [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
        sent = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return {url for url in sent if not url.startswith("data:")}


@pytest.fixture
def console(browser, sandbox: ThreadedSandbox) -> Console:
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    assert sandbox.console_url is not None
    return Console(browser, sandbox.console_url)


def create_orders(minted: MintedConnect) -> None:
    minted.customers.create(CUSTOMER, firstname="Ada")
    basket = minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=3)
    minted.complete.buy(basket, expected_total=basket.paid_total)
    minted.baskets.add_item(CUSTOMER, sku=GOLD, qty=2)


def test_console_shows_the_state(console: Console, minted: MintedConnect, sandbox: ThreadedSandbox) -> None:
    console.wait(lambda: "none" in console.text("orders"))
    create_orders(minted)
    console.wait(lambda: "Pending" in console.text("orders"))
    assert f"2 x {GOLD}" in console.text("baskets")
    assert "240 s" in console.text("baskets")
    assert console.text("seed") == f"seed {sandbox.seed}"
    assert GOLD in console.text("wallets")
    assert "/partner/walletable/complete/buy" in console.text("requests")
    assert "gold spot 586.48, buy 592.34, sell 580.62" in console.text("prices")
    points = console.browser.execute_script("return document.querySelector('polyline.gold').points.numberOfItems")
    assert points == 120
    assert console.log_errors() == []
    assert {url.removeprefix(sandbox.url) for url in console.requested()} == {"/_sandbox", "/_sandbox/state"}
    if folder := os.environ.get("SCREENSHOTS"):
        console.browser.save_screenshot(str(Path(folder) / "console.png"))


def test_console_buttons_advance_the_clock(console: Console, minted: MintedConnect, sandbox: ThreadedSandbox) -> None:
    create_orders(minted)
    console.wait(lambda: "240 s" in console.text("baskets"))
    console.click("button[data-seconds='241']")
    console.wait(lambda: "expired" in console.text("baskets"))
    assert sandbox.clock.monotonic() == 241


def test_console_adds_and_removes_faults(console: Console, minted: MintedConnect, sandbox: ThreadedSandbox) -> None:
    console.wait(lambda: console.browser.execute_script("return document.querySelectorAll('option').length") > 10)
    path = console.browser.find_element("css selector", "input[name=path]")
    path.clear()
    path.send_keys("*/rates")
    console.click("#add-fault button")
    console.wait(lambda: "*/rates" in console.text("faults"))
    minted.rates.current()  # retried after a 500
    console.wait(lambda: "500" in console.text("requests"))
    console.click("#faults button")
    console.wait(lambda: "none" in console.text("faults"))
    assert not sandbox.faults


def test_console_resets_idle_connections(console: Console, minted: MintedConnect) -> None:
    minted.rates.current()
    console.click("#reset-idle")
    # The click sends its request while the test continues.
    console.wait(lambda: minted.rates.current() and "reset_idle" in console.text("requests"))


def test_console_shows_errors(console: Console) -> None:
    console.wait(lambda: console.browser.execute_script("return document.querySelectorAll('option').length") > 10)
    console.click("option[value='drop_field']")
    console.click("#add-fault button")
    console.wait(lambda: "drop_field needs field=" in console.text("error"))


def test_console_escapes_markup(console: Console, sandbox: ThreadedSandbox) -> None:
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{sandbox.url}/<img/src=x/onerror=document.title='hit'>", timeout=PATIENCE)
    refused.value.close()
    console.wait(lambda: "onerror" in console.text("requests"))
    assert console.browser.execute_script("return document.querySelectorAll('img').length") == 0
    assert console.browser.title == "Minted Connect sandbox"


def test_console_refuses_requests_of_other_sites(browser, console: Console, sandbox: ThreadedSandbox) -> None:
    with ThreadedSandbox() as other:
        # Another port is another origin of the same site.
        browser.get(f"{other.url}/_sandbox")
        script = """
            const done = arguments[arguments.length - 1];
            fetch(arguments[0], {method: arguments[1], mode: arguments[2], body: arguments[3],
                headers: {"Content-Type": "text/plain"}})
                .then((response) => done(response.type), () => done("refused"));
        """
        url = f"{sandbox.url}/_sandbox"
        assert browser.execute_async_script(script, f"{url}/state", "GET", "cors", None) == "refused"
        assert browser.execute_async_script(script, f"{url}/clock", "POST", "no-cors", '{"seconds": 99}') == "refused"
    assert sandbox.clock.monotonic() == 0
