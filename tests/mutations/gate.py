"""The mutations of statements 45 to 51, which run with every land gate."""

from __future__ import annotations

from tests.mutations.mutation import Mutation

GATE = [
    Mutation(
        45,
        "a throttled completion is sent again",
        "core/retry.py",
        "        may_retry = False\n    elif isinstance(error, APIError):",
        "        may_retry = isinstance(error, RateLimited)\n    elif isinstance(error, APIError):",
        "completion/test_end_to_end.py",
    ),
    Mutation(
        46,
        "a refusal is confirmed by the first poll",
        "completion/reconcile.py",
        "            return began >= self._responded_at + wait",
        "            return True",
        "completion/test_policy.py",
    ),
    Mutation(
        46,
        "a stored refusal is believed at once",
        "completion/reconcile.py",
        "server_time >= refusal.at + timedelta(seconds=wait) + _DATE_RESOLUTION",
        "server_time >= refusal.at",
        "completion/test_policy.py",
    ),
    Mutation(
        48,
        "every intent counts as one of this account",
        "completion/settlement.py",
        "        return intent.account in {self.owner.account, None}",
        "        return True",
        "completion/test_journal_accounts.py",
    ),
    Mutation(
        49,
        "a lost record is not logged at ERROR",
        "journal/sql.py",
        '        _logger.error(\n            "intent %s: its record is lost',
        '        _logger.debug(\n            "intent %s: its record is lost',
        "completion/test_journal_lost.py",
    ),
    Mutation(
        49,
        "an unreadable record is not reported",
        "journal/sql.py",
        "                unreadable.append(_id_of(row))",
        "                pass",
        "completion/test_journal_lost.py",
    ),
    Mutation(
        50,
        "a second closer stops the shutdown",
        "blocking/loop_thread.py",
        "        if not self.closing:\n            self.closing = True\n            self.loop.stop()",
        "        self.closing = True\n        self.loop.stop()",
        "blocking/test_closing.py",
    ),
    Mutation(
        50,
        "a second closer does not wait",
        "client.py",
        "        elif closing.get_loop() is asyncio.get_running_loop():",
        "        elif False:",
        "test_aclose.py",
    ),
    Mutation(
        51,
        "every attempt may reuse a connection",
        "core/transport.py",
        "                progress.needs_new_connection = True",
        "                progress.needs_new_connection = False",
        "test_dead_pool.py",
    ),
    Mutation(
        51,
        "one broken connection replaces the pool",
        "core/pool.py",
        "_DEAD_POOL = 2",
        "_DEAD_POOL = 1",
        "test_dead_pool.py",
    ),
    Mutation(
        51,
        "each connection of a dead pool is charged",
        "core/call.py",
        "        if failure is not None and failure.is_charged:\n            return True\n",
        "",
        "test_dead_pool.py",
    ),
    Mutation(
        51,
        "a basket is read back over the dead pool",
        "resources/baskets.py",
        "self._api.with_pool(PoolKind.RECOVERY)",
        "self._api.with_pool(PoolKind.DEFAULT)",
        "matrix/test_dead_pool.py",
    ),
]
