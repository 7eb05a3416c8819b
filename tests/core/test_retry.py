from __future__ import annotations

import asyncio
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minted_connect.config import BreakerPolicy, RateLimit, RetryPolicy
from minted_connect.core.failures import may_have_executed, needs_read_back
from minted_connect.core.request import Effect
from minted_connect.core.retry import pause_before_retry, retry_after
from minted_connect.core.throttle import CircuitBreaker, RateLimiter, RetryBudget
from minted_connect.errors import (
    APIError,
    AuthenticationFailed,
    BadRequest,
    CircuitOpen,
    Conflict,
    ConnectFailed,
    IntegrityError,
    InvalidInput,
    LimiterTimeout,
    MintedConnectError,
    NotFound,
    PermissionDenied,
    Phase,
    PoolTimeout,
    ProtocolError,
    RateLimited,
    RequestInfo,
    RequestTimeout,
    ResponseTooLarge,
    ServerError,
    TLSFailed,
    TransportError,
    UnexpectedRedirect,
    ValidationFailed,
)
from minted_connect.sandbox import ManualClock

R, S, A, M = Effect.READ, Effect.IDEMPOTENT, Effect.NON_IDEMPOTENT, Effect.COMPLETE

# Maximum attempts by failure and effect: the rows of the fault matrix with the outcome RT, RT1 or X.
ATTEMPTS = {
    "refused": (ConnectFailed("x"), {R: 3, S: 2, A: 2, M: 2}),
    "bad certificate": (TLSFailed("x"), {R: 1, S: 1, A: 1, M: 1}),
    "closed handshake": (TLSFailed("x", is_closed_by_server=True), {R: 3, S: 2, A: 2, M: 2}),
    "no connection free": (PoolTimeout("x"), {R: 1, S: 1, A: 1, M: 1}),
    "limiter": (LimiterTimeout("x"), {R: 1, S: 1, A: 1, M: 1}),
    "breaker": (CircuitOpen("x"), {R: 1, S: 1, A: 1, M: 1}),
    "bad input": (InvalidInput.of("qty", "rule"), {R: 1, S: 1, A: 1, M: 1}),
    "dropped after sending": (TransportError("x", phase=Phase.SENT), {R: 3, S: 2, A: 1, M: 1}),
    "cut short": (TransportError("x", phase=Phase.RESPONDED), {R: 3, S: 1, A: 1, M: 1}),
    "late": (RequestTimeout("x", phase=Phase.SENT), {R: 3, S: 1, A: 1, M: 1}),
    "not json": (ProtocolError("x", ("not JSON",)), {R: 2, S: 1, A: 1, M: 1}),
    "too large": (ResponseTooLarge("x"), {R: 1, S: 1, A: 1, M: 1}),
    "redirect": (UnexpectedRedirect("x"), {R: 1, S: 1, A: 1, M: 1}),
    "of another customer": (IntegrityError("x"), {R: 1, S: 1, A: 1, M: 1}),
    "401": (AuthenticationFailed("x", 401), {R: 1, S: 1, A: 1, M: 1}),
    "404": (NotFound("x", 404), {R: 1, S: 1, A: 1, M: 1}),
    "409": (Conflict("x", 409), {R: 1, S: 1, A: 1, M: 1}),
    "422": (ValidationFailed("x", 422), {R: 1, S: 1, A: 1, M: 1}),
    "429 enveloped": (RateLimited("x", 429, 429), {R: 3, S: 2, A: 1, M: 1}),
    "429 of a proxy": (RateLimited("x", 429, None), {R: 3, S: 2, A: 1, M: 1}),
    "408": (APIError("x", 408), {R: 3, S: 2, A: 1, M: 1}),
    "425": (APIError("x", 425), {R: 3, S: 2, A: 1, M: 1}),
    "500": (ServerError("x", 500), {R: 3, S: 2, A: 1, M: 1}),
    "503": (ServerError("x", 503), {R: 3, S: 2, A: 1, M: 1}),
    "other error": (MintedConnectError("x"), {R: 1, S: 1, A: 1, M: 1}),
}


@pytest.mark.requirement(12)
@pytest.mark.requirement(1)
@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize("name", ATTEMPTS)
def test_maximum_attempts_by_failure_and_effect(name: str, effect: Effect):
    error, allowed = ATTEMPTS[name]
    made = 1
    while pause_before_retry(effect, error, made, RetryPolicy(), left=60, roll=0.5) is not None:
        made += 1
    assert allowed[effect] == made


@pytest.mark.parametrize("name", ATTEMPTS)
def test_policy_none_never_retries(name: str):
    error, _ = ATTEMPTS[name]
    for effect in Effect:
        assert pause_before_retry(effect, error, 1, RetryPolicy.none(), left=60, roll=0.5) is None


errors = st.sampled_from([error for error, _ in ATTEMPTS.values()])


@given(
    errors,
    st.sampled_from(Effect),
    st.integers(1, 50),
    st.floats(0, 1, exclude_max=True),
    st.floats(-5, 100),
    st.floats(0.001, 10),
    st.floats(0.001, 100),
    st.integers(1, 40),
)
def test_pause_is_below_deadline_and_backoff_limit(error, effect, attempt, roll, left, initial, maximum, reads):
    policy = RetryPolicy(read_attempts=reads, write_attempts=reads, wait_initial=initial, wait_max=maximum)
    pause = pause_before_retry(effect, error, attempt, policy, left=left, roll=roll)
    if pause is not None:
        assert 0 <= pause < left
        assert pause <= maximum
        assert pause <= initial * 2 ** (attempt - 1)
        assert attempt < reads


@given(errors, st.integers(1, 10), st.floats(0, 1, exclude_max=True))
def test_possibly_executed_purchase_is_never_retried(error, attempt, roll):
    if may_have_executed(error):
        assert pause_before_retry(M, error, attempt, RetryPolicy(), left=60, roll=roll) is None
        assert pause_before_retry(A, error, attempt, RetryPolicy(), left=60, roll=roll) is None


@pytest.mark.requirement(12)
@pytest.mark.parametrize("name", ATTEMPTS)
@pytest.mark.requirement(45)
def test_non_idempotent_call_is_retried_only_if_unsent(name: str):
    error, _ = ATTEMPTS[name]
    for effect in (A, M):
        if pause_before_retry(effect, error, 1, RetryPolicy(), left=60, roll=0.5) is not None:
            assert isinstance(error, ConnectFailed)


def failed(error: MintedConnectError, effect: Effect) -> MintedConnectError:
    error = copy.copy(error)
    error.request = RequestInfo("POST", "/x", effect)
    return error


@pytest.mark.parametrize("name", ATTEMPTS)
def test_only_digest_refusal_proves_completion_not_executed(name: str):
    error = failed(ATTEMPTS[name][0], M)
    sent = isinstance(error, APIError | TransportError | ProtocolError)
    assert may_have_executed(error) is sent
    assert not (sent and error.safe_to_retry)
    if isinstance(error, AuthenticationFailed):
        error.refused_digest = True
        assert not may_have_executed(error)
    elif isinstance(error, APIError):
        error.is_confirmed = True
        assert not may_have_executed(error)


READ_BACK = {
    *("dropped after sending", "cut short", "late", "not json", "too large", "redirect"),
    *("409", "408", "425", "500", "503"),
}


@pytest.mark.parametrize(("effect", "names"), [(S, READ_BACK), (A, READ_BACK | {"429 enveloped", "429 of a proxy"})])
def test_failures_after_which_a_change_is_read_back(effect: Effect, names: set[str]):
    assert {name for name, (error, _) in ATTEMPTS.items() if needs_read_back(failed(error, effect))} == names


def test_denied_addition_needs_read_back():
    for error in (PermissionDenied("x", 403), BadRequest("x", 400), APIError("x", 410)):
        assert needs_read_back(failed(error, A))
        assert not may_have_executed(failed(error, A))
        assert not needs_read_back(failed(error, S))


@given(st.floats(0, 1000), st.floats(0.1, 1000))
def test_pause_is_retry_after_or_none_beyond_deadline(asked, left):
    pause = pause_before_retry(R, RateLimited("x", 429, retry_after=asked), 1, RetryPolicy(), left=left, roll=0.9)
    assert (asked if asked < left else None) == pause


@given(st.lists(st.one_of(st.just("refund"), st.integers(1, 20)), max_size=200))
def test_retry_budget_stays_between_zero_and_its_size(moves):
    budget = RetryBudget(100)
    for move in moves:
        if move == "refund":
            budget.refund()
        else:
            before = budget.tokens
            assert (before >= move) == budget.take(move)
        assert 0 <= budget.tokens <= 100


async def call_with_retries(attempt, decide, sleep):
    """Call `attempt` as `ApiClient.exchange` does."""
    try:
        return await attempt()
    except MintedConnectError as error:
        retrying = retry_after(error, attempt, decide, sleep)
    return await retrying


async def test_retries_are_numbered_and_slept_before():
    made, slept, asked = [], [], []

    async def attempt() -> int:
        made.append(len(made) + 1)
        if len(made) < 4:
            raise ServerError("x", 500 + len(made))
        return len(made)

    def decide(error: MintedConnectError, number: int) -> float | None:
        assert isinstance(error, ServerError)
        asked.append((error.status, number))
        return number / 10

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    assert await call_with_retries(attempt, decide, sleep) == 4
    assert asked == [(501, 1), (502, 2), (503, 3)]
    assert slept == [0.1, 0.2, 0.3]


async def test_exhausted_retries_raise_the_last_error():
    failures = iter([ServerError("one", 500), ServerError("two", 502)])

    async def attempt() -> None:
        raise next(failures)

    async def sleep(seconds: float) -> None:
        assert seconds == 0

    with pytest.raises(ServerError, match="two"):
        await call_with_retries(attempt, lambda error, number: 0 if number == 1 else None, sleep)


async def test_other_error_or_cancellation_is_never_retried():
    for foreign in (ZeroDivisionError(), asyncio.CancelledError()):
        failures = iter([ServerError("one", 500), foreign])

        async def attempt(failures=failures) -> None:
            raise next(failures)

        async def sleep(seconds: float) -> None:
            pass

        with pytest.raises(type(foreign)):
            await call_with_retries(attempt, lambda error, number: 0, sleep)


async def test_concurrent_calls_count_their_attempts_separately():
    clock = ManualClock(auto_advance=True)

    async def call(failures: int) -> int:
        left = failures

        async def attempt() -> int:
            nonlocal left
            await asyncio.sleep(0)
            if left:
                left -= 1
                raise ServerError("x", 500)
            return failures

        return await call_with_retries(attempt, lambda error, number: 0.1 if number <= failures else None, clock.sleep)

    assert list(range(50)) == await asyncio.gather(*(call(n % 50) for n in range(50)))


async def test_rate_limiter_delays_calls_up_to_their_deadline():
    clock = ManualClock(auto_advance=True)
    limiter = RateLimiter(RateLimit(rate=10, burst=3), clock)
    started = clock.monotonic()
    for _ in range(13):
        await limiter.wait(60)
    assert pytest.approx(clock.monotonic() - started) == 1.0
    with pytest.raises(LimiterTimeout):
        await limiter.wait(0.05)
    before = clock.monotonic()
    await limiter.wait(0.11)  # the refused call took no token
    assert pytest.approx(clock.monotonic() - before) == 0.1
    clock.advance(10)
    before = clock.monotonic()
    for _ in range(3):
        await limiter.wait(0)
    assert before == clock.monotonic()


def test_breaker_opens_probes_and_closes():
    clock = ManualClock()
    breaker = CircuitBreaker(BreakerPolicy(failures=2, cooldown=10), clock)
    for failed in (True, False, True, True):
        assert not breaker.enter()
        breaker.leave(probe=False, failed=failed)
    with pytest.raises(CircuitOpen):
        breaker.enter()
    clock.advance(10)
    assert breaker.enter()
    breaker.leave(probe=False, failed=None)  # an attempt that began before the probe ends; the probe is still in flight
    with pytest.raises(CircuitOpen):
        breaker.enter()
    breaker.leave(probe=True, failed=None)  # the probe was cancelled, so the next call may be a probe
    assert breaker.enter()
    breaker.leave(probe=True, failed=True)
    with pytest.raises(CircuitOpen):
        breaker.enter()
    clock.advance(10)
    assert breaker.enter()
    breaker.leave(probe=True, failed=False)
    assert not breaker.enter()
    assert not breaker.enter()
