"""Results of a verification: no differences on a default sandbox, the injected differences on other sandboxes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from minted_connect import AsyncMintedConnect, AuthenticationFailed, NotFound, Options
from minted_connect.core.request import OPERATIONS, Effect
from minted_connect.models import Basket, Page, Product, Rate
from minted_connect.sandbox import Sandbox
from minted_connect.verify import Assessment, Report, as_json, as_markdown, verify
from minted_connect.verify.field_diff import diff
from minted_connect.verify.probes import ALTERNATIVE_PATHS, READS
from tests.cli.conftest import Minted

CUSTOMER = "shop-customer-1"
GOLD = "MNTBAE0001"
PARAMETERS = {"customers.get": "{external_customer_id}", "orders.invoice": "{external_order_id}"}
PERSONAL = {"firstname": "Zenobia", "lastname": "Quill", "email": "zenobia@example.com", "phone": "+905550001122"}


def settings(server: Any, **more: Any) -> dict[str, Any]:
    return {"username": server.username, "password": server.password, "base_url": server.url, **more}


async def create_customer_with_orders(server: Sandbox, **paths: str) -> None:
    """Give a customer a completed order, a holding and an open basket."""
    async with AsyncMintedConnect(**settings(server, options=Options(paths=paths))) as minted:
        await minted.customers.create(CUSTOMER, **PERSONAL)
        basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
        bought = await minted.complete.buy(basket, expected_total=basket.paid_total)
        assert bought.order is not None
        server.shop.set_status(bought.order.id, "Completed")
        await minted.baskets.add_item(CUSTOMER, sku=GOLD)


def assessments(report: Report) -> dict[str, Assessment]:
    return {result.operation: result.assessment for result in report.results}


async def test_verify_default_sandbox_verifies_all_operations() -> None:
    async with Sandbox(seed=1) as server:
        await create_customer_with_orders(server)
        report = await verify(settings(server), customer=CUSTOMER, with_sandbox_customer=True)
    found = assessments(report)
    completions = {name for name, operation in OPERATIONS.items() if operation.effect is Effect.COMPLETE}
    assert {name for name, assessment in found.items() if assessment is Assessment.UNTRIED} == completions
    # The temporary customer has no holdings.
    assert {name for name in found.keys() - completions if found[name] is not Assessment.VERIFIED} <= {"wallet.balance"}
    assert report.is_clean
    assert not report.suggested_paths
    assert {result.evidence_after for result in report.results if result.assessment is Assessment.VERIFIED} == {
        "verified"
    }


async def test_verify_without_sandbox_customer_sends_reads_only() -> None:
    async with Sandbox(seed=1) as server:
        await create_customer_with_orders(server)
        before = server.requests.total
        report = await verify(settings(server), customer=CUSTOMER)
        assert {request.method for request in list(server.requests)[before:]} == {"GET"}
    found = assessments(report)
    assert {name for name, assessment in found.items() if assessment is Assessment.VERIFIED} == {
        probe.operation for probe in READS
    }
    assert {result.note for result in report.results if result.operation == "complete.buy"} == {
        "moves money: never tried"
    }


async def test_verify_sends_no_completion_and_removes_its_customer() -> None:
    async with Sandbox(seed=1) as server:
        await verify(settings(server), with_sandbox_customer=True)
        assert not [request for request in server.requests if "complete" in request.path]
        removed = [
            request for request in server.requests if request.method == "DELETE" and "/customer/" in request.path
        ]
        (name,) = {request.path.rpartition("/")[2] for request in removed}
        assert name.startswith("verify-")
        async with AsyncMintedConnect(**settings(server)) as minted:
            with pytest.raises(NotFound):
                await minted.customers.get(name)


async def test_verify_without_customer_skips_its_operations() -> None:
    async with Sandbox(seed=1) as server:
        report = await verify(settings(server))
    untried = {result.operation: result.note for result in report.results if result.assessment is Assessment.UNTRIED}
    assert untried["wallet.balance"].startswith("needs a customer")
    assert untried["orders.receipt"] == "needs an order"


# --- injected differences ----------------------------------------------------------------------------------------


async def test_verify_reports_three_injected_differences() -> None:
    moved_path = "/partner/walletable/currency-rates"
    async with Sandbox(paths={"rates.current": moved_path}) as server:
        await create_customer_with_orders(server)
        server.faults.add("drop_field", path="*/balance", field="*.productName", times=None)
        server.faults.add("extra_field", path="*/products", field="data.*.lock_token", value="secret", times=None)
        report = await verify(settings(server), customer=CUSTOMER)
    found = {result.operation: result for result in report.results}
    rates = found["rates.current"]
    assert (rates.assessment, rates.suggested_path) == (Assessment.MOVED, moved_path)
    assert (rates.evidence_before, rates.evidence_after) == ("inferred", "verified")
    wallet = found["wallet.balance"]
    assert (wallet.assessment, wallet.decoded, wallet.evidence_after) == (
        Assessment.CONTRADICTED,
        False,
        "contradicted",
    )
    assert wallet.problems == ("data[0].productName: required field missing",)
    assert wallet.missing == ("data[].productName",)
    products = found["products.page"]
    assert (products.assessment, products.unknown) == (Assessment.DIFFERENT, ("data.data[].lock_token: string",))
    others = assessments(report).keys() - {"rates.current", "wallet.balance", "products.page"}
    assert {found[name].assessment for name in others} <= {Assessment.VERIFIED, Assessment.UNTRIED}
    assert report.suggested_paths == {"rates.current": moved_path}
    assert not report.is_clean


@pytest.mark.parametrize("operation", sorted(ALTERNATIVE_PATHS))
async def test_verify_finds_each_alternative_path(operation: str) -> None:
    for path in ALTERNATIVE_PATHS[operation]:
        named = path.replace("{}", PARAMETERS.get(operation, ""))
        async with Sandbox(paths={operation: named}) as server:
            await create_customer_with_orders(server, **{operation: path})
            report = await verify(settings(server), customer=CUSTOMER)
        assert report.suggested_paths == {operation: path}


async def test_verify_with_suggested_paths_is_clean() -> None:
    paths = {"rates.current": "/partner/rates", "wallet.balance": "/partner/balance"}
    async with Sandbox(paths=paths) as server:
        await create_customer_with_orders(server)
        report = await verify(settings(server), customer=CUSTOMER)
        corrected = settings(server, options=Options(paths=report.suggested_paths))
        second_report = await verify(corrected, customer=CUSTOMER)
    assert report.suggested_paths == paths
    assert second_report.is_clean


async def test_verify_unknown_path_is_contradicted_not_suggested() -> None:
    async with Sandbox(paths={"rates.history": "/v9/archive"}) as server:
        report = await verify(settings(server))
    (found,) = [result for result in report.results if result.operation == "rates.history"]
    assert (found.assessment, found.status, found.suggested_path) == (Assessment.CONTRADICTED, 404, None)
    assert found.path == OPERATIONS["rates.history"].path


async def test_verify_missing_invoice_is_not_found() -> None:
    async with Sandbox(seed=1) as server:
        await create_customer_with_orders(server)
        server.shop.set_status(server.shop.orders[0].id, "Pending")  # no invoice exists yet
        report = await verify(settings(server), customer=CUSTOMER)
    (found,) = [result for result in report.results if result.operation == "orders.invoice"]
    assert (found.assessment, found.status, found.evidence_after) == (Assessment.NOT_FOUND, 404, found.evidence_before)
    assert report.is_clean


@pytest.mark.parametrize(
    ("fault", "assessment", "status"),
    [
        ({"kind": "status", "status": 403}, Assessment.REFUSED, 403),
        ({"kind": "status", "status": 500}, Assessment.REFUSED, 500),
        ({"kind": "invalid_json"}, Assessment.CONTRADICTED, 200),
        ({"kind": "drop_before_read"}, Assessment.UNREACHED, None),
        ({"kind": "drop_field", "field": "*.spot_price"}, Assessment.CONTRADICTED, 200),
    ],
)
async def test_verify_assessment_by_failure(fault: dict[str, Any], assessment: Assessment, status: int | None) -> None:
    async with Sandbox(seed=1) as server:
        server.faults.add(fault.pop("kind"), path="*/rates", times=None, **fault)
        report = await verify(settings(server))
    (found,) = [result for result in report.results if result.operation == "rates.current"]
    assert (found.assessment, found.status) == (assessment, status)


async def test_verify_wrong_password_is_sent_once() -> None:
    async with Sandbox(seed=1) as server:
        with pytest.raises(AuthenticationFailed):
            await verify(settings(server) | {"password": "other"}, with_sandbox_customer=True)
        # The challenge, and the request with credentials.
        assert [request.operation for request in server.requests] == ["customers.create"] * 2


@pytest.mark.parametrize("kind", ["drop_after_commit", "invalid_json"])
async def test_verify_removes_customer_of_failed_creation(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # One read-back instead of several over half a minute.
    monkeypatch.setattr("minted_connect.core.api_client.read_back_offsets", lambda _: (0.0,))
    async with Sandbox(seed=1) as server:
        server.faults.add(kind, method="POST", path="*/customer", times=None)
        server.faults.add("status", method="GET", path="*/customer/*", status=500, times=None)
        await verify(settings(server), with_sandbox_customer=True)
        assert [customer.external_id for customer in server.shop.customers] in ([None], [])
        assert [request for request in server.requests if request.operation == "customers.remove"]


async def test_verify_without_created_customer_changes_nothing() -> None:
    async with Sandbox(seed=1) as server:
        server.faults.add("status", path="*/customer", status=403, times=None)
        report = await verify(settings(server), with_sandbox_customer=True)
        assert {request.method for request in server.requests} == {"GET", "POST"}
    assert assessments(report)["customers.create"] is Assessment.REFUSED
    assert assessments(report)["customers.remove"] is Assessment.UNTRIED


# --- reports -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def report_and_secrets() -> tuple[Report, list[str]]:
    async with Sandbox(paths={"rates.current": "/partner/rates"}) as server:
        await create_customer_with_orders(server)
        server.faults.add("extra_field", path="*/balance", field="*.0123 456", value=PERSONAL["email"], times=None)
        report = await verify(settings(server), customer=CUSTOMER, with_sandbox_customer=True)
        return report, [CUSTOMER, server.password, *PERSONAL.values()]


async def test_report_has_no_personal_data(report_and_secrets: tuple[Report, list[str]]) -> None:
    report, secrets = report_and_secrets
    for text in (json.dumps(as_json(report)), as_markdown(report), repr(report)):
        assert not [word for word in secrets if word in text]


async def test_report_contains_the_suggested_paths(report_and_secrets: tuple[Report, list[str]]) -> None:
    report, _ = report_and_secrets
    text = as_markdown(report)
    assert 'Options(paths={\n    "rates.current": "/partner/rates",\n})' in text
    assert '[profiles.NAME.paths]\n"rates.current" = "/partner/rates"' in text
    assert len(re.findall(r"^\| .* \| .* `/partner", text, re.MULTILINE)) == len(OPERATIONS)
    assert as_json(report)["suggested_paths"] == {"rates.current": "/partner/rates"}


# --- differences -------------------------------------------------------------------------------------------------


def test_diff_of_rows_merges_their_keys() -> None:
    rows = [{"currency_id": 1, "a": 1}, {"currency_id": 2, "b": None}]
    found = diff(rows, tuple[Rate, ...])
    assert found.unknown == ("data[].a: number", "data[].b: null")
    assert "data[].sku" in found.missing
    assert "data[].currency_id" not in found.missing


def test_diff_of_page_knows_the_keys_of_the_paginator() -> None:
    page = {"data": [], "current_page": 1, "last_page": 1, "per_page": 10, "total": 0, "from": None, "pages": 3}
    assert diff(page, Page[Product]).unknown == ("data.pages: number",)


@pytest.mark.parametrize("data", [None, [], {}, "text", [None, 1, "x"], {"items": [{"prices": "x"}], "pricefix": []}])
def test_diff_of_any_data_does_not_raise(data: object) -> None:
    for type_ in (Basket, Basket | None, tuple[Rate, ...], Page[Product]):
        diff(data, type_)


def test_diff_hides_keys_that_are_not_names() -> None:
    assert diff({"+90 555": 1, "x" * 41: 2}, Rate).unknown == (
        "data.(a key that is not a name): number",
        "data.(a key that is not a name): number",
    )


# --- from the command line ---------------------------------------------------------------------------------------


def test_command_verify_writes_both_reports(minted: Minted, sandbox: Any, tmp_path: Any) -> None:
    completed = minted("verify", "--with-sandbox-customer", "--report", tmp_path / "found")
    assert completed.code == 0, completed
    assert len(completed.out.splitlines()) == 1 + len(OPERATIONS)
    assert json.loads((tmp_path / "found.json").read_text("utf-8"))["suggested_paths"] == {}
    assert (tmp_path / "found.md").read_text("utf-8").startswith("# Verification")
    sandbox.faults.add("drop_field", path="*/rates", field="*.buy_price", times=None)
    wrong = minted("verify", "--report", tmp_path / "found", "--json")
    assert wrong.code == 1
    assert json.loads(wrong.out)["results"]


def test_command_verify_on_production_requires_yes(minted: Minted) -> None:
    completed = minted("verify", "--with-sandbox-customer", "--base-url", "https://production.example.com")
    assert completed.code == 2
    assert completed.err.endswith("not staging or localhost: pass --yes to allow it\n")
