"""The schema of a PostgreSQL journal: its versions and the migrations between them."""

from __future__ import annotations

from typing import Final

from minted_connect.journal.protocol import ACTIVE, OPEN
from minted_connect.journal.sql_claims import ClaimStatements
from minted_connect.journal.statements import AWAITS_COMPLETION, IS_ACTIVE, IS_OPEN, Statements, state_literals

__all__ = ["STATEMENTS", "STEPS", "VERSION"]

_OPEN: Final = state_literals(OPEN)
_ACTIVE: Final = state_literals(ACTIVE)

STEPS: Final = (
    # Keys use the "C" collation: other collations may change with an upgrade of the operating system, which corrupts
    # indexes, and a corrupt unique index could accept a second open record.
    f"""
CREATE TABLE minted_connect_journal (version INTEGER NOT NULL);
INSERT INTO minted_connect_journal VALUES (0);
CREATE TABLE minted_connect_intents (
    number BIGINT GENERATED ALWAYS AS IDENTITY,
    id TEXT COLLATE "C" PRIMARY KEY,
    kind TEXT NOT NULL,
    external_customer_id TEXT COLLATE "C" NOT NULL,
    cart_token TEXT COLLATE "C" NOT NULL,
    basket_id BIGINT NOT NULL,
    guid TEXT NOT NULL,
    increment_id TEXT NOT NULL,
    price_token TEXT NOT NULL,
    paid_total TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    items TEXT NOT NULL,
    created_at TEXT NOT NULL,
    state TEXT NOT NULL,
    clock_offset INTEGER NOT NULL,
    known_orders TEXT NOT NULL,
    order_id BIGINT,
    progress TEXT,
    finished BOOLEAN NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX minted_connect_one_open ON minted_connect_intents (external_customer_id, cart_token)
    WHERE state IN ({_OPEN});
CREATE INDEX minted_connect_one_holder ON minted_connect_intents (external_customer_id, cart_token)
    WHERE state IN ({_ACTIVE});
CREATE INDEX minted_connect_unfinished ON minted_connect_intents (number) WHERE {AWAITS_COMPLETION}
""",  # noqa: S608 - nothing interpolated is input
    "ALTER TABLE minted_connect_intents ADD COLUMN fenced_at TEXT",
    # The library does not use `corrections` yet.
    f"""
ALTER TABLE minted_connect_intents
    ADD COLUMN server TEXT,
    ADD COLUMN account TEXT COLLATE "C",
    ADD COLUMN send_before TEXT,
    ADD COLUMN refusal TEXT,
    ADD COLUMN reference TEXT COLLATE "C",
    ADD COLUMN terms TEXT,
    ADD COLUMN claim_generation BIGINT,
    ADD COLUMN corrections TEXT;
DROP INDEX minted_connect_one_open;
DROP INDEX minted_connect_one_holder;
CREATE UNIQUE INDEX minted_connect_one_open
    ON minted_connect_intents (external_customer_id, cart_token, coalesce(account, '')) WHERE state IN ({_OPEN});
CREATE INDEX minted_connect_one_holder ON minted_connect_intents (external_customer_id, cart_token) WHERE {IS_ACTIVE};
CREATE INDEX minted_connect_open_ones ON minted_connect_intents (number) WHERE {IS_OPEN};
CREATE INDEX minted_connect_by_reference ON minted_connect_intents (account, reference) WHERE reference IS NOT NULL;
CREATE TABLE minted_connect_claims (
    account TEXT COLLATE "C" NOT NULL,
    reference TEXT COLLATE "C" NOT NULL,
    external_customer_id TEXT COLLATE "C" NOT NULL,
    kind TEXT COLLATE "C" NOT NULL,
    terms TEXT NOT NULL,
    generation BIGINT NOT NULL,
    owner TEXT NOT NULL,
    holds_customer BOOLEAN NOT NULL,
    saw_basket BOOLEAN NOT NULL,
    cart_token TEXT,
    intent_id TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, reference)
);
ALTER TABLE minted_connect_journal ADD COLUMN identity TEXT;
UPDATE minted_connect_journal SET identity = md5(random()::text || clock_timestamp()::text);
CREATE UNIQUE INDEX minted_connect_one_claim
    ON minted_connect_claims (account, external_customer_id, kind) WHERE holds_customer
""",  # noqa: S608 - nothing interpolated is input
    """
ALTER TABLE minted_connect_intents ADD COLUMN decided_at TEXT;
CREATE INDEX minted_connect_same_reference ON minted_connect_intents (reference) WHERE reference IS NOT NULL;
ALTER TABLE minted_connect_claims ADD COLUMN grace DOUBLE PRECISION NOT NULL DEFAULT 0;
CREATE INDEX minted_connect_claim_of_intent ON minted_connect_claims (intent_id) WHERE intent_id IS NOT NULL
""",
    # Times are compared as text. Other collations than "C" ignore punctuation.
    """
ALTER TABLE minted_connect_intents
    ADD COLUMN forgotten_at TEXT,
    ALTER COLUMN created_at TYPE TEXT COLLATE "C";
ALTER TABLE minted_connect_journal ADD COLUMN forgotten_before TEXT COLLATE "C";
CREATE UNIQUE INDEX minted_connect_by_number ON minted_connect_intents (number);
CREATE INDEX minted_connect_by_time ON minted_connect_intents (created_at)
""",
    'ALTER TABLE minted_connect_journal ADD COLUMN restored_from TEXT COLLATE "C"',
    """
ALTER TABLE minted_connect_journal ADD COLUMN imported_accounts TEXT;
ALTER TABLE minted_connect_intents ADD COLUMN imported_at TEXT, ADD COLUMN assigned_at TEXT;
CREATE INDEX minted_connect_imported ON minted_connect_intents (external_customer_id)
    WHERE imported_at IS NOT NULL AND assigned_at IS NULL
""",
    """
ALTER TABLE minted_connect_journal ADD COLUMN erasure_key TEXT;
ALTER TABLE minted_connect_intents ADD COLUMN erased_at TEXT
""",
)
"""Migrations: step n leads from version n to n + 1. Never change a released step."""

VERSION: Final = len(STEPS)
"""The current schema version (`minted_connect_journal.version`)."""

_PLACEHOLDER: Final = r"%(\1)s"

STATEMENTS: Final = Statements.build(
    table="minted_connect_intents",
    sequence="number",
    journal="minted_connect_journal",
    claim_table="minted_connect_claims",
    claims=ClaimStatements.build(
        table="minted_connect_claims",
        # Not `now()`, which stands still during a transaction that waits for a lock.
        expires_in="CAST(extract(epoch FROM expires_at - clock_timestamp()) AS DOUBLE PRECISION)",
        expiry={"expires_at": "clock_timestamp() + make_interval(secs => :seconds)"},
        placeholder=_PLACEHOLDER,
    ),
    placeholder=_PLACEHOLDER,
)
"""The statements for the current schema version."""
