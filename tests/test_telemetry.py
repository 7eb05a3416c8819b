"""`Options.on_attempt`, and the spans and metrics of OpenTelemetry: complete, and without personal data."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from minted_connect import (
    Attempt,
    ConfigurationError,
    ConnectFailed,
    NotFound,
    OutcomeUnknown,
    Phase,
    ServerError,
)
from minted_connect.config import Options, RateLimit
from minted_connect.errors import LimiterTimeout
from minted_connect.otel import OpenTelemetry
from tests.completion.reconcilers import reconciling
from tests.support.waiting import wait_until

CUSTOMER = "shop-customer-1"
GOLD = "MNTBAE0001"


@pytest.fixture
def attempts():
    return []


@pytest.fixture
async def build_client(connect, sandbox, clock, attempts):
    async def build(**settings):
        options = {"clock": clock, "on_attempt": attempts.append, **settings.pop("options", {})}
        return await connect(
            settings.pop("url", sandbox.url), sandbox.username, sandbox.password, options=Options(**options), **settings
        )

    return build


async def test_on_attempt_call_with_login_is_one_attempt(build_client, sandbox, attempts, clock):
    minted = await build_client()
    await minted.rates.current()
    (attempt,) = attempts
    assert attempt == Attempt(
        operation="rates.current",
        method="GET",
        route="/partner/walletable/rates",
        server=sandbox.url,
        number=1,
        started_at=clock.wall(),
        elapsed=0.0,
        phase=Phase.RESPONDED,
        status=200,
    )


async def test_on_attempt_gets_number_status_and_error(build_client, sandbox, attempts):
    minted = await build_client()
    sandbox.faults.add("status", path="*/rates", status=503, times=2)
    await minted.rates.current()
    assert [(attempt.number, attempt.status, attempt.error) for attempt in attempts] == [
        (1, 503, "ServerError"),
        (2, 503, "ServerError"),
        (3, 200, None),
    ]


async def test_on_attempt_route_is_template_or_raw(build_client, attempts):
    minted = await build_client()
    await minted.customers.create(CUSTOMER, firstname="Ada", email="ada@example.com")
    await minted.customers.get(CUSTOMER)
    with pytest.raises(NotFound):
        await minted.request("GET", f"/partner/secret/{CUSTOMER}", query={"name": "Ada"})
    assert [(attempt.operation, attempt.route) for attempt in attempts] == [
        ("customers.create", "/partner/customer"),
        ("customers.get", "/partner/customer/{}"),
        ("request", "(raw)"),
    ]
    assert not any(word in repr(attempts) for word in (CUSTOMER, "Ada", "ada@", "secret"))


async def test_on_attempt_failure_has_its_phase(build_client, sandbox, attempts, clock):
    minted = await build_client(url="http://127.0.0.1:1")
    with pytest.raises(ConnectFailed):
        await minted.rates.current()
    assert {(attempt.phase, attempt.status, attempt.error) for attempt in attempts} == {
        (Phase.NOT_SENT, None, "ConnectFailed")
    }
    attempts.clear()
    minted = await build_client()
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/buy")
    with pytest.raises(OutcomeUnknown):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    (purchase,) = [attempt for attempt in attempts if attempt.operation == "complete.buy"]
    assert (purchase.phase, purchase.status, purchase.error) == (Phase.SENT, None, "TransportError")


async def test_on_attempt_limiter_timeout_is_not_sent(build_client, attempts, sandbox):
    minted = await build_client(options={"rate_limit": RateLimit(rate=0.001, burst=1)})
    await minted.rates.current()
    with pytest.raises(LimiterTimeout):
        await minted.rates.current()
    assert [(attempt.phase, attempt.error) for attempt in attempts] == [
        (Phase.RESPONDED, None),
        (Phase.NOT_SENT, "LimiterTimeout"),
    ]


async def test_on_attempt_gets_cancelled_call(sandbox, attempts):
    from minted_connect import AsyncMintedConnect

    options = Options(on_attempt=attempts.append)
    hang = sandbox.faults.add("hang", path="*/rates")
    async with AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=options) as minted:
        task = asyncio.ensure_future(minted.rates.current())
        while not hang.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(attempt.phase, attempt.error) for attempt in attempts] == [(Phase.SENT, "CancelledError")]


async def test_on_attempt_that_raises_is_logged_only(build_client, caplog):
    def broken(attempt):
        raise RuntimeError("the hook is broken")

    minted = await build_client(options={"on_attempt": broken})
    with caplog.at_level(logging.ERROR, "minted_connect"):
        assert await minted.rates.current()
    assert [record.message for record in caplog.records] == ["Options.on_attempt raised"]


def test_on_attempt_must_be_a_function():
    with pytest.raises(ConfigurationError, match=r"^Options\.on_attempt: must be a function"):
        Options(on_attempt="print")


# --- OpenTelemetry -----------------------------------------------------------------------------------------------


@pytest.fixture
def spans():
    return InMemorySpanExporter()


@pytest.fixture
def metric_reader():
    return InMemoryMetricReader()


@pytest.fixture
def tracer_provider(spans):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider
    provider.shutdown()


@pytest.fixture
def telemetry(tracer_provider, metric_reader):
    meters = MeterProvider([metric_reader])
    yield OpenTelemetry(tracer_provider=tracer_provider, meter_provider=meters)
    meters.shutdown()


async def test_span_has_the_attributes_of_the_conventions(build_client, telemetry, spans, sandbox):
    minted = await build_client(options={"on_attempt": telemetry})
    await minted.customers.create(CUSTOMER, firstname="Ada")
    await minted.customers.get(CUSTOMER)
    _, span = spans.get_finished_spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "GET /partner/customer/{}",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "minted_connect.operation": "customers.get",
        "minted_connect.phase": "responded",
        "server.address": "127.0.0.1",
        "server.port": int(sandbox.url.rpartition(":")[2]),
        "url.scheme": "http",
        "url.template": "/partner/customer/{}",
    }
    assert span.instrumentation_scope.name == "minted_connect"


async def test_spans_are_children_of_the_span_of_the_caller(build_client, telemetry, spans, tracer_provider, sandbox):
    minted = await build_client(options={"on_attempt": telemetry})
    sandbox.faults.add("status", path="*/rates", status=503)
    with tracer_provider.get_tracer("shop").start_as_current_span("checkout") as outer:
        await minted.rates.current()
    first, second, _ = spans.get_finished_spans()
    assert {first.parent.span_id, second.parent.span_id} == {outer.get_span_context().span_id}
    assert (first.attributes["error.type"], first.status.status_code) == ("503", StatusCode.ERROR)
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert first.start_time <= first.end_time <= second.start_time


async def test_span_error_type_without_status_is_the_class(build_client, telemetry, spans):
    minted = await build_client(url="http://127.0.0.1:1", options={"on_attempt": telemetry})
    with pytest.raises(ConnectFailed):
        await minted.rates.current()
    span = spans.get_finished_spans()[0]
    assert span.attributes["error.type"] == "ConnectFailed"
    assert span.attributes["minted_connect.phase"] == "not sent"
    assert "http.response.status_code" not in span.attributes


async def test_durations_are_a_histogram_in_seconds(build_client, telemetry, metric_reader):
    minted = await build_client(options={"on_attempt": telemetry})
    for _ in range(3):
        await minted.rates.current()
    ((metric,),) = [
        scope.metrics
        for resource in metric_reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
    ]
    assert (metric.name, metric.unit) == ("http.client.request.duration", "s")
    (point,) = metric.data.data_points
    assert point.count == 3
    assert point.attributes["url.template"] == "/partner/walletable/rates"
    assert tuple(point.explicit_bounds)[:3] == (0.005, 0.01, 0.025)


async def test_open_intents_are_a_gauge(build_client, telemetry, metric_reader, sandbox):
    minted = await build_client()
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("drop_after_commit", path="*/complete/*")
    with pytest.raises(OutcomeUnknown):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    numbers = []
    for _ in range(2):
        telemetry.record_open_intents(await minted.complete.pending())
        (resource,) = metric_reader.get_metrics_data().resource_metrics
        (metric,) = resource.scope_metrics[0].metrics
        assert (metric.name, metric.unit) == ("minted_connect.intents.open", "{intent}")
        (point,) = metric.data.data_points
        numbers.append(point.value)
        await minted.complete.reconcile_all()
    assert numbers == [1, 0]


async def test_reconciler_records_open_intents(build_client, telemetry, metric_reader, sandbox):
    minted = await build_client(options={"on_attempt": telemetry})
    await minted.customers.create(CUSTOMER)
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    sandbox.faults.add("drop_before_read", path="*/complete/*")
    with pytest.raises(OutcomeUnknown):
        await minted.complete.buy(basket, expected_total=basket.paid_total)
    (intent,) = await minted.complete.pending()
    numbers = []
    for _ in range(2):
        async with reconciling(minted, budget=1.0) as reconciler:
            await wait_until(lambda: reconciler.status.rounds)
        (resource,) = metric_reader.get_metrics_data().resource_metrics
        metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
        (point,) = metrics["minted_connect.intents.open"].data.data_points
        numbers.append(point.value)
        await minted.complete.decide(intent, "not_executed")
    assert numbers == [1, 0]
    assert await minted.complete.pending() == []


async def test_spans_and_metrics_contain_no_personal_data(build_client, telemetry, spans, metric_reader, sandbox):
    minted = await build_client(options={"on_attempt": telemetry})
    await minted.customers.create(CUSTOMER, firstname="Ada", email="ada@example.com", phone="+905550001122")
    basket = await minted.baskets.add_item(CUSTOMER, sku=GOLD)
    await minted.complete.buy(basket, expected_total=basket.paid_total)
    with pytest.raises(NotFound):
        await minted.customers.get("somebody-else-1")
    sandbox.faults.add("status", path="*/rates", status=500, times=None)
    with pytest.raises(ServerError):
        await minted.rates.current()
    exported = (
        "".join(span.to_json() for span in spans.get_finished_spans()) + metric_reader.get_metrics_data().to_json()
    )
    for word in (CUSTOMER, "somebody", "Ada", "ada@", "905550001122", basket.token, sandbox.password, sandbox.username):
        assert word not in exported


def test_missing_opentelemetry_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    with pytest.raises(ConfigurationError, match=r'pip install "minted-connect\[otel\]"$'):
        OpenTelemetry()


def test_client_does_not_load_opentelemetry():
    import subprocess

    code = "import sys; from minted_connect import AsyncMintedConnect; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
