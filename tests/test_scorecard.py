"""The statements about a safe money client, each with the tests that show it of this one."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NOXFILE = TESTS.parent / "noxfile.py"

SCORECARD: dict[int, tuple[str, ...]] = {
    1: (
        "safe reads retried by default",
        "core/test_retry.py::test_how_often_each_failure_may_be_tried",
        "matrix/test_sent.py::test_sent",
    ),
    2: (
        "randomised backoff, full jitter",
        "core/test_patience.py::test_the_jitter_is_full",
        "core/test_patience.py::test_the_jitter_is_random",
    ),
    3: (
        "Retry-After: seconds, HTTP date, garbage",
        "core/test_response.py::test_how_long_the_server_asks_to_wait",
        "test_transport.py::test_retry_after_as_a_date",
    ),
    4: (
        "Retry-After capped, or fails at once beyond the deadline",
        "core/test_patience.py::test_a_server_that_asks_for_more_than_the_deadline_ends_it_at_once",
    ),
    5: (
        "a veto of the server is respected",
        "core/test_patience.py::test_a_no_is_not_asked_again",
    ),
    6: (
        "a retry budget shared per client",
        "core/test_patience.py::test_siblings_share_one_budget",
        "core/test_patience.py::test_calls_at_once_share_one_budget",
    ),
    7: (
        "a client-side rate limiter",
        "core/test_api_client.py::test_the_rate_limit_spaces_calls",
        "core/test_api_client.py::test_the_rate_limit_counts_every_attempt",
    ),
    8: (
        "one deadline over attempts, waits and digest",
        "core/test_patience.py::test_nothing_begins_after_the_deadline",
        "core/test_patience.py::test_waiting_for_a_place_is_part_of_the_time",
        "test_transport.py::test_one_deadline_over_all_attempts",
    ),
    9: (
        "each attempt gets min(own, remaining)",
        "core/test_patience.py::test_an_attempt_gets_its_own_time_or_what_is_left_if_that_is_less",
    ),
    10: (
        "finite default timeouts, separate pool, connect, read, total",
        "core/test_patience.py::test_every_time_limit_is_finite_and_stays_it",
        "core/test_patience.py::test_nobody_who_sets_no_limit_waits_for_ever",
    ),
    11: (
        "not sent and maybe executed told apart by phase",
        "core/test_patience.py::test_waiting_for_a_login_that_another_call_began_is_not_sent",
        "matrix/test_before_sending.py::test_no_connection",
        "matrix/test_sent.py::test_sent",
    ),
    12: (
        "a POST that repeats its effect is never blindly sent again",
        "matrix/test_sent.py::test_sent",
        "completion/test_chaos.py::test_a_client_that_sends_again_is_found_out",
    ),
    13: (
        "the key is fixed before the first try, and persisted",
        "completion/test_completions.py::test_nothing_is_sent_without_the_journal",
        "completion/test_end_to_end.py::test_killed_between_sending_and_answer",
        "completion/test_stateful.py::test_money_is_spent_once_and_knowingly",
    ),
    14: (
        "look-up or void by that key after an unknown outcome",
        "completion/test_reconcile.py::test_an_order_is_found_at_once",
        "completion/test_reconcile.py::test_a_fence_proves_only_what_staging_has_shown",
    ),
    15: (
        "a typed unknown outcome that carries the intent",
        "completion/test_completions.py::test_unknown",
    ),
    16: (
        "a write-ahead journal, recovery after kill -9",
        "completion/test_machines.py::test_killed_between_sending_and_answer_and_found_out_by_another",
        "completion/test_killed.py::test_what_was_said_is_kept",
    ),
    17: (
        "cancelled after sending: unknown, recorded, re-raised",
        "completion/test_cancel_sweep.py::test_a_completion_cancelled_at_every_await",
        "matrix/test_given_up.py",
    ),
    18: (
        "a price guard before, a check after",
        "completion/test_agreed.py::test_another_price_than_was_agreed_to_is_not_paid",
        "completion/test_agreed.py::test_an_order_is_compared_with_what_was_agreed_to",
    ),
    19: (
        "the price lock on a monotonic clock, with a margin",
        "test_operations.py::test_the_price_lock_runs_on_the_monotonic_clock",
        "core/test_api_client.py::test_a_price_that_runs_out_while_waiting_for_the_limiter_is_not_bought",
        "completion/test_agreed.py::test_the_time_of_day_does_not_end_a_lock_and_does_not_prolong_it",
        "completion/test_agreed.py::test_a_few_seconds_of_the_lock_are_kept_back",
    ),
    20: (
        "clock skew from Date, for search windows only",
        "completion/test_agreed.py::test_neither_lock_nor_pause_nor_deadline_minds_the_servers_clock",
        "completion/test_agreed.py::test_what_became_of_a_purchase_is_looked_for_in_both_times",
        "completion/test_agreed.py::test_a_date_that_lies_only_widens_the_search",
    ),
    21: (
        "money calls are not starved: own connections, a lane for reconciling",
        "core/test_api_client.py::test_everyday_calls_do_not_hold_purchases_up",
        "core/test_api_client.py::test_nothing_holds_reconciling_up",
    ),
    22: (
        "the breaker fails before sending; reconciling passes it",
        "core/test_api_client.py::test_a_purchase_that_is_held_back_was_not_sent",
        "core/test_api_client.py::test_reconciling_does_not_mind_an_open_breaker",
    ),
    23: (
        "a full pool is a typed, fast, not-sent error",
        "test_transport.py::test_the_pool_is_fast_to_say_that_it_is_full",
        "completion/test_agreed.py::test_a_full_lane_of_completions_is_said_fast_and_nothing_was_sent",
    ),
    24: (
        "no connection leaks on error, cancel or 401",
        "test_leaks.py::test_thousands_of_calls_leave_nothing_open",
        "completion/test_cancel_sweep.py::test_a_call_cancelled_at_every_await",
    ),
    25: (
        "fork: a clear error, never a hang",
        "blocking/test_process.py::test_the_child_is_refused_at_once_and_the_parent_goes_on",
        "test_forks.py::test_in_the_middle_of_a_purchase",
    ),
    26: (
        "another loop or thread works, or is a clear error",
        "test_threads_and_processes.py::test_another_loop_in_the_middle_of_a_purchase",
        "test_threads_and_processes.py::test_thirty_two_threads_buy_while_a_lot_goes_wrong",
    ),
    27: (
        "redirects are never followed",
        "test_transport.py::test_redirects_are_not_followed",
    ),
    28: (
        "TLS from 1.2, checking not switchable by environment, http to loopback only",
        "test_tls.py::test_a_server_of_the_last_century",
        "test_tls.py::test_the_context_of_every_lane_is_strict",
        "test_tls.py::test_a_lender_who_checks_nothing_does_not_decide_for_us",
        "test_tls.py::test_no_variable_switches_the_checking_off",
        "test_tls.py::test_plain_http_goes_no_further_than_this_machine",
    ),
    29: (
        "digest: the strongest, pinned, no Basic, bound to its origin",
        "core/test_downgrade.py::test_the_strongest_on_offer_is_taken_at_once",
        "core/test_downgrade.py::test_nothing_weaker_is_answered_after_the_first_success",
        "core/test_downgrade.py::test_a_signed_request_is_not_sent_on",
        "core/test_downgrade.py::test_no_path_leads_to_another_server",
    ),
    30: (
        "digest: one challenge at a time, stale once, 401 twice is a failure",
        "core/test_digest.py::test_a_cold_burst_of_64_makes_65_requests",
        "core/test_digest.py::test_stale_is_renewed_once_per_call",
        "test_transport.py::test_a_wrong_password_is_one_challenge_and_no_hammering",
    ),
    31: (
        "no secret in log, repr, str, pickle, local variables of ours",
        "test_privacy.py::test_what_fails",
        "test_privacy.py::test_no_variable_of_ours_shows_a_secret",
        "test_privacy.py::test_neither_does_a_call_that_is_cut_short",
        "test_privacy.py::test_a_client_is_not_pickled",
        "core/test_digest.py::test_nothing_secret_shows_and_nothing_is_pickled",
    ),
    32: (
        "logs are an allow-list",
        "core/test_api_client.py::test_the_log_is_a_line_an_attempt",
        "test_privacy.py::test_what_succeeds",
    ),
    33: (
        "personal data masked in reprs and errors",
        "test_models.py::test_nobody_is_named_in_a_repr",
        "test_privacy.py::test_a_server_that_says_it_back",
        "core/test_redact.py::test_what_is_shown_of_a_text",
    ),
    34: (
        "errors hold neither body nor headers unless asked",
        "test_transport.py::test_an_error_holds_neither_body_nor_headers_unless_asked",
    ),
    35: (
        "header and URL injection refused before sending",
        "test_injection.py::test_what_is_given_stays_where_it_belongs",
        "test_injection.py::test_no_setting_breaks_out_of_its_header",
    ),
    36: (
        "response cap after decompression, depth cap, NaN refused",
        "test_transport.py::test_a_bomb_never_stands_in_memory_whole",
        "core/test_exact_json.py::test_nesting_is_allowed_to_the_limit_and_no_deeper",
        "core/test_exact_json.py::test_what_is_not_unambiguous_json_is_refused",
    ),
    37: (
        "money never passes a float",
        "core/test_exact_json.py::test_a_fraction_is_read_to_the_last_digit",
        "test_models.py::test_no_money_is_a_float",
    ),
    38: (
        "unknown fields and words tolerated, missing ones fail typed",
        "core/test_exact_json.py::test_unknown_keys_stay_reachable_and_are_carried_along",
        "core/test_exact_json.py::test_unknown_words_stay_strings",
        "core/test_exact_json.py::test_missing_fields_are_named_by_their_path_on_the_wire",
    ),
    39: (
        "every failure in one documented tree; the cause kept without leaking",
        "test_errors.py::test_the_tree_in_the_docstring_is_the_tree",
        "test_transport.py::test_errors_hold_nothing_of_the_foreign_exception",
        "test_fuzz.py::test_whatever_an_answer_has_turned_into",
    ),
    40: (
        "request id and attempt count on results and errors",
        "core/test_api_client.py::test_what_fails_says_which_exchange_it_was_and_at_which_attempt",
        "core/test_api_client.py::test_a_result_says_which_exchange_it_was_and_at_which_attempt",
    ),
    41: (
        "leak tests in the land gate, and a soak that runs as long as one likes",
        "test_leaks.py::test_thousands_of_calls_leave_nothing_open",
        "test_leaks.py::test_memory_stays_flat",
        "test_soak.py::test_a_second_of_it",
    ),
    42: (
        "faults injected at the socket",
        "matrix/test_table.py::test_each_cell_is_proved_through_both_clients",
    ),
    43: (
        "property-based, stateful and fuzz tests",
        "completion/test_stateful.py::test_money_is_spent_once_and_knowingly",
        "test_fuzz.py::test_whatever_an_answer_has_turned_into",
        "core/test_exact_json.py::test_spoilt_data_is_unfit_or_a_model_and_nothing_else",
    ),
    44: (
        "py.typed, and every public type known",
        "noxfile",
    ),
    45: (
        "one POST per completion, under every fault and policy, 401 challenges excepted",
        "completion/test_refusal_table.py",
        "completion/test_end_to_end.py::test_a_throttled_completion_is_posted_once",
        "core/test_retry.py::test_a_completion_or_addition_is_retried_only_if_nothing_was_sent",
    ),
    46: (
        "no refusal is believed too early",
        "completion/test_refusal_table.py",
        "completion/test_policy.py::test_a_refusal_is_believed_at_the_settle_time",
        "completion/test_policy.py::test_reconcile_does_not_believe_a_refusal_before_the_settle_time",
    ),
    48: (
        "the journal knows server and account; intents of others are neither read back nor fenced",
        "completion/test_journal_accounts.py::test_lists_leave_other_accounts_out_and_count_them",
        "completion/test_journal_accounts.py::test_intent_of_another_account_is_not_read_back_or_decided",
    ),
    49: (
        "a journal that vanished, or a record that cannot be read, is noticed and named",
        "completion/test_journal_lost.py::test_nothing_is_sent_with_a_journal_that_was_lost",
        "completion/test_journal_lost.py::test_one_bad_record_hides_no_other",
    ),
    50: (
        "any number of closers and signals, in any order",
        "blocking/test_closing.py::test_each_closer_returns_when_the_client_is_closed",
        "blocking/test_closing.py::test_the_last_of_several_ctrl_c_names_the_intent",
        "test_aclose.py::test_closing_during_a_purchase_leaves_it_unknown",
    ),
}


@cache
def asserting(file: Path) -> dict[str, bool]:
    """The tests of a file, and whether each checks anything by itself or through a function of the tests."""
    tree = ast.parse(file.read_text("utf-8"))
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]

    def checks(function: ast.AST) -> bool:
        names = {one.id for one in ast.walk(function) if isinstance(one, ast.Name)}
        names |= {one.attr for one in ast.walk(function) if isinstance(one, ast.Attribute)}
        return any(isinstance(one, ast.Assert) for one in ast.walk(function)) or bool(names & {"raises", "fail"})

    helpers = {one.name for one in functions if not one.name.startswith("test_") and checks(one)}
    imported = {
        alias.asname or alias.name
        for one in ast.walk(tree)
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("tests")
        for alias in one.names
    }

    def calls(function: ast.AST) -> set[str]:
        called = (one.func for one in ast.walk(function) if isinstance(one, ast.Call))
        return {one.id if isinstance(one, ast.Name) else getattr(one, "attr", "") for one in called}

    return {
        one.name: checks(one) or bool(calls(one) & (helpers | imported))
        for one in functions
        if one.name.startswith("test_")
    }


def test_no_statement_is_missing():
    # 47 and 51 to 56 belong to what is not built yet.
    assert list(SCORECARD) == [*range(1, 47), 48, 49, 50]


@pytest.mark.parametrize("number", SCORECARD)
def test_each_statement_is_shown_by_tests_that_can_fail(number: int):
    statement, *proofs = SCORECARD[number]
    if proofs == ["noxfile"]:
        source = NOXFILE.read_text("utf-8")
        assert '"--verifytypes", "minted_connect"' in source
        assert "minted_connect/py.typed" in source
        return
    for proof in proofs:
        file, _, name = proof.partition("::")
        tests = asserting(TESTS / file)
        assert tests, f"{statement}: {file} holds no test"
        for one in [name] if name else tests:
            assert one in tests, f"{statement}: there is no {proof}"
            assert tests[one], f"{statement}: {proof} checks nothing"
