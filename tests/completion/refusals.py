"""Every response that refuses a completion, with the order made or not, and reads that are delayed or not.

`python -m tests.completion.refusals` prints what both clients report in each case.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal

import anyio.to_thread
import attrs

from minted_connect import AsyncMintedConnect, MintedConnect, Options
from minted_connect.config import CompletionPolicy
from minted_connect.errors import APIError, CompletionRejected, MintedConnectError, NotExecuted, OutcomeUnknown
from minted_connect.journal.memory import MemoryJournal
from minted_connect.journal.protocol import Journal
from minted_connect.models import Basket, Completion, Intent, IntentState
from minted_connect.sandbox import ManualClock, Sandbox
from tests.completion.chaos.stopping import FaultyJournal
from tests.conftest import Awaitably
from tests.support.clocks import WrongClock
from tests.support.operations import GOLD
from tests.support.rewriting_proxy import Made, Rewrite, RewritingProxy

__all__ = [
    "ENDINGS",
    "EXCLUDED",
    "REFUSALS",
    "UNKNOWN_AT_ONCE",
    "Case",
    "Environment",
    "Result",
    "cases",
    "open_environment",
    "run_case",
]

Reads = Literal["fresh", "delayed"]
Ending = Literal["inline", "inline_looks=0", "deadline", "cancelled", "killed"]

DELAY: Final = 5.0
STALENESS: Final = 7.0
BOUNDED: Final = CompletionPolicy(orders_lag=8.0, latest_landing=6.0)
UNBOUNDED: Final = CompletionPolicy()
"""The default: `orders_lag` alone covers delay and staleness."""
POLICIES: Final[Mapping[str, CompletionPolicy]] = {"latest_landing": BOUNDED, "orders_lag": UNBOUNDED}
DEADLINE: Final = 4.0
"""Seconds, less than every settle time here."""

_REALM: Final = 'realm="gateway"'
_CHALLENGES: Final = {
    "401 Basic": f"Basic {_REALM}",
    "401 Digest of another realm": f'Digest {_REALM}, nonce="other", qop="auth", algorithm=SHA-256',
    "401 Digest without nonce": 'Digest realm="Minted Connect", qop="auth", algorithm=SHA-256',
    "401 weaker Digest": 'Digest realm="Minted Connect", nonce="other", qop="auth", algorithm=MD5',
}


@attrs.frozen
class Response:
    """A response that refuses, without its body."""

    name: str
    status: int
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


_STATUSES: Final = (200, 400, 401, 402, 403, 404, 405, 409, 410, 413, 418, 422, 429, 451)
REFUSALS: Final = (
    *(Response(str(status) if status != 200 else "200 success:false", status) for status in _STATUSES),
    *(Response(name, 401, {"WWW-Authenticate": challenge}) for name, challenge in _CHALLENGES.items()),
    Response("429 Retry-After 3", 429, {"Retry-After": "3"}),
    Response("429 Retry-After 3600", 429, {"Retry-After": "3600"}),
)
"""Responses that confirm a refusal only after a search for the order."""
UNKNOWN_AT_ONCE: Final = tuple(
    Response(str(status), status, {"Location": "/elsewhere"} if status < 400 else {})
    for status in (301, 302, 303, 307, 308, 408, 425, 500, 502, 503, 504)
)
"""Responses after which the outcome is unknown at once."""
ENDINGS: Final[tuple[Ending, ...]] = ("inline_looks=0", "deadline", "cancelled", "killed")


@attrs.frozen(kw_only=True)
class Case:
    """One case of the table."""

    response: Response
    form: Literal["enveloped", "bare"]
    made: Made
    reads: Reads
    policy: str = "latest_landing"
    trusts_defaults: bool = True
    """Whether the policy has its default `refusals`; otherwise no status is trusted."""
    ending: Ending = "inline"
    clock_error: float = 0.0
    """Seconds by which the gateway's clock is ahead of the server's."""
    wall_error: float = 0.0
    """Seconds by which the wall clock of the reconciling machine is ahead."""

    @property
    def label(self) -> str:
        """Return the name of the case, without policy and ending."""
        made = {"before": "before", "after": f"{DELAY:g} s after", "never": "never"}[self.made]
        reads = f"delayed by {STALENESS:g} s" if self.reads == "delayed" else "fresh"
        return f"{self.response.name} {self.form}, order {made}, reads {reads}"

    @property
    def completion_policy(self) -> CompletionPolicy:
        policy = POLICIES[self.policy]
        policy = policy if self.trusts_defaults else attrs.evolve(policy, refusals=frozenset())
        return attrs.evolve(policy, inline_looks=0.0) if self.ending == "inline_looks=0" else policy

    @property
    def exclusion(self) -> str | None:
        """The reason why the default `refusals` decide this case wrongly, or None."""
        status = self.response.status
        is_trusted = self.trusts_defaults and self.form == "enveloped" and status in self.completion_policy.refusals
        if not is_trusted or self.made == "never":
            return None
        if self.reads == "delayed":
            return "one read-back confirms a trusted refusal, and delayed reads do not show the order in it"
        if self.made == "after" and self.completion_policy.latest_landing is None:
            return "one read-back confirms a trusted refusal, and without latest_landing it comes before the order"
        return None

    @property
    def rewrite(self) -> Rewrite:
        status, envelope = self.response.status, self.form == "enveloped"
        body = {"data": None, "success": False, "code": status, "message": "refused"}
        if not envelope and status == 200:
            del body["code"]
        is_json = envelope or status == 200
        return Rewrite(
            status=status,
            headers={"Content-Type": "application/json" if is_json else "text/html", **self.response.headers},
            body=json.dumps(body).encode() if is_json else b"<html><body>blocked</body></html>",
            made=self.made,
            delay=DELAY,
            staleness=STALENESS if self.reads == "delayed" else 0.0,
            clock_error=self.clock_error,
        )


def cases(responses: Iterable[Response], **fixed: Any) -> Iterator[Case]:
    """Return every combination of form, order and reads for these responses."""
    forms, made, reads = ("enveloped", "bare"), ("before", "after", "never"), ("fresh", "delayed")
    for response, *rest in itertools.product(responses, forms, made, reads):
        yield Case(**{"response": response, **dict(zip(("form", "made", "reads"), rest, strict=True)), **fixed})


EXCLUDED: Final = tuple(
    case for policy in POLICIES for case in cases(REFUSALS, policy=policy) if case.exclusion is not None
)
"""The only cases in which the default policy decides wrongly; without trusted refusals, it decides correctly."""


@attrs.frozen
class Result:
    """The result of one case."""

    case: Case
    reported: str
    """The outcome that the call reported."""
    reconciled: str
    """The outcome that `reconcile` of a second client with the same journal reported; empty if nothing was pending."""
    orders: int
    """Number of orders of the basket at the end."""
    problems: tuple[str, ...]
    """Violated expectations."""


@attrs.define(eq=False)
class Environment:
    """A sandbox, the proxy in front of it, and the kind of the client that buys."""

    flavour: str
    clock: ManualClock
    sandbox: Sandbox
    proxy: RewritingProxy
    setup_client: AsyncMintedConnect
    """Fills baskets without the proxy."""
    customers: int = 0

    async def basket(self) -> Basket:
        self.customers += 1
        name = f"customer-{self.customers}"
        await self.setup_client.customers.create(name, firstname="Ada", lastname="Lovelace")
        return await self.setup_client.baskets.add_item(name, sku=GOLD, qty=1)

    def orders(self, basket: Basket) -> list[int]:
        return [order.id for order in self.sandbox.shop.orders if order.token == basket.token]

    @asynccontextmanager
    async def client(
        self, policy: CompletionPolicy, journal: Journal, *, wall_error: float = 0.0
    ) -> AsyncIterator[Any]:
        terms: dict[str, Any] = {
            "base_url": self.proxy.url,
            "journal": journal,
            "options": Options(clock=WrongClock(self.clock, wall_error), completion=policy),
        }
        login = self.sandbox.username, self.sandbox.password
        if self.flavour == "async":
            async with AsyncMintedConnect(*login, **terms) as client:
                yield client
        else:
            blocking = MintedConnect(*login, **terms)
            try:
                yield Awaitably(blocking)
            finally:
                await anyio.to_thread.run_sync(blocking.close)


@asynccontextmanager
async def open_environment(flavour: str) -> AsyncIterator[Environment]:
    """Open a sandbox and a proxy with one clock, which every wait advances."""
    clock = ManualClock(auto_advance=True)
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(Sandbox(seed=1, clock=clock, single_shot=False))
        proxy = await stack.enter_async_context(RewritingProxy(sandbox.url, clock))
        setup_client = await stack.enter_async_context(
            AsyncMintedConnect(sandbox.username, sandbox.password, base_url=sandbox.url, options=Options(clock=clock))
        )
        yield Environment(flavour, clock, sandbox, proxy, setup_client)


async def run_case(environment: Environment, case: Case) -> Result:
    """Run one case: complete a basket, reconcile a pending intent, and compare the reports with the shop."""
    basket, journal, problems = await environment.basket(), MemoryJournal(), list[str]()
    environment.proxy.rewrites[basket.token] = case.rewrite
    reported = await _buy(environment, case, basket, journal)
    problems += _problems_of(environment, case, basket, reported)
    pending = await journal.pending()
    if isinstance(reported, Completion) or _is_refusal(reported):
        problems += ["settled, and still pending"] * len(pending)
    else:
        problems += _problems_of_pending(case, pending)
    reconciled: Completion | BaseException | None = None
    if pending:
        # The second client acts as another process: it shares only the journal.
        async with environment.client(case.completion_policy, journal, wall_error=case.wall_error) as client:
            reconciled = await _result_of(client.complete.reconcile(pending[0]))
        problems += _problems_of(environment, case, basket, reconciled)
    environment.clock.advance(100)
    await environment.proxy.execute_due()
    orders = environment.orders(basket)
    problems += _problems_at_the_end(
        case, orders, reconciled or reported, [one.state for one in await _intents(journal)]
    )
    if (posts := environment.proxy.completions[basket.token]) != 1:
        problems.append(f"{posts} completions were sent")
    return Result(
        case, _describe(reported), "" if reconciled is None else _describe(reconciled), len(orders), tuple(problems)
    )


async def _buy(
    environment: Environment, case: Case, basket: Basket, journal: MemoryJournal
) -> Completion | BaseException:
    faulty_journal = FaultyJournal(journal)
    async with environment.client(case.completion_policy, faulty_journal) as opened:
        client = opened.with_options(deadline=DEADLINE) if case.ending == "deadline" else opened
        task = asyncio.ensure_future(_result_of(client.complete.buy(basket, expected_total=basket.paid_total)))
        if case.ending in {"cancelled", "killed"}:

            def interrupt(read: int) -> None:
                # A poll makes two reads or more; later polls only use the remaining time.
                if read == 4 and environment.proxy.completions[basket.token]:
                    faulty_journal.is_killed = case.ending == "killed"
                    task.cancel()

            environment.proxy.on_read = interrupt
        try:
            return await task
        finally:
            environment.proxy.on_read = None


async def _result_of(call: Awaitable[Completion]) -> Completion | BaseException:
    try:
        return await call
    except (MintedConnectError, asyncio.CancelledError) as error:
        return error


def _is_refusal(result: Completion | BaseException | None) -> bool:
    """Return whether a call reported that nothing was bought."""
    if isinstance(result, CompletionRejected):
        return result.order is None
    return isinstance(result, APIError | NotExecuted)


def _problems_of(environment: Environment, case: Case, basket: Basket, result: Completion | BaseException) -> list[str]:
    """Return the errors in a report, checked when the report is made."""
    if _is_refusal(result) and case.made != "never":
        return [f"confirmed too early: {_describe(result)}"]
    if isinstance(result, Completion):
        orders = environment.orders(basket)
        return [] if result.order is not None and result.order.id in orders else ["confirmed without an order"]
    expected = isinstance(result, APIError | CompletionRejected | NotExecuted | OutcomeUnknown | asyncio.CancelledError)
    return [] if expected else [f"reported {result!r}"]


def _problems_of_pending(case: Case, pending: list[Intent]) -> list[str]:
    if len(pending) != 1:
        return [f"{len(pending)} intents are pending"]
    [intent] = pending
    if intent.state != IntentState.UNKNOWN:
        return [f"the intent is {intent.state}"]
    if case.response in UNKNOWN_AT_ONCE:
        return []
    if intent.refusal is None:
        return ["the journal does not contain the refusal"]
    seen, expected = (intent.refusal.status, intent.refusal.is_vendor_response), case.form == "enveloped"
    # The body of a 401 is not parsed if its challenge is refused.
    if seen[0] != case.response.status or (seen[1] != expected and case.response.status != 401):
        return [f"the journal contains the refusal {seen}"]
    return []


def _problems_at_the_end(
    case: Case, orders: list[int], result: Completion | BaseException, states: list[IntentState | str]
) -> list[str]:
    problems: list[str] = []
    if len(orders) != (case.made != "never"):
        problems.append(f"the shop has the orders {orders}")
    if orders and not (isinstance(result, Completion) and states == [IntentState.CONFIRMED]):
        problems.append(f"the order was not found: {_describe(result)}, {states}")
    if (
        not orders
        and case.response not in UNKNOWN_AT_ONCE
        and not (_is_refusal(result) and states == [IntentState.REJECTED])
    ):
        problems.append(f"it does not end as a refusal: {_describe(result)}, {states}")
    return problems


async def _intents(journal: MemoryJournal) -> list[Intent]:
    return [*journal._closed.values(), *journal._open.values()]


def _describe(result: Completion | BaseException | None) -> str:
    match result:
        case Completion():
            return "confirmed"
        case OutcomeUnknown():
            return "unknown"
        case asyncio.CancelledError():
            return "cancelled"
        case _ if _is_refusal(result):
            return f"refused ({type(result).__name__})"
        case _:
            return repr(result)


def table() -> list[tuple[str, list[Case]]]:
    """Return the sections of the table, with their titles and cases."""
    return [
        ("confirmed after a search", [case for policy in POLICIES for case in cases(REFUSALS, policy=policy)]),
        ("unknown at once", list(cases(UNKNOWN_AT_ONCE))),
        ("excluded above, with refusals=frozenset()", [attrs.evolve(case, trusts_defaults=False) for case in EXCLUDED]),
    ]


async def render(flavours: Iterable[str] = ("async", "blocking")) -> AsyncIterator[str]:
    """Run the table with these clients, and return its rows and counts."""
    for flavour in flavours:
        async with open_environment(flavour) as environment:
            for title, section in table():
                yield f"\n{flavour} client: {title}"
                counts: Counter[str] = Counter()
                for case in section:
                    result = await run_case(environment, case)
                    exclusion = case.exclusion
                    verdict = "excluded" if exclusion else "WRONG" if result.problems else "right"
                    counts[verdict] += 1
                    ends = " -> ".join(filter(None, (result.reported, result.reconciled)))
                    why = f" ({exclusion})" if exclusion else "".join(f" ({problem})" for problem in result.problems)
                    yield f"{case.label:<76}{case.policy:<16}{ends:<48}{verdict}{why}"
                yield ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))


async def main() -> int:
    logging.getLogger("minted_connect").setLevel(logging.CRITICAL)
    wrong = 0
    async for row in render():
        wrong += " WRONG" in row
        sys.stdout.write(f"{row}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
