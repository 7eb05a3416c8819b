"""The schema of an SQLite journal: its versions and the migrations between them."""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

import attrs

from minted_connect.journal.protocol import ACTIVE, OPEN
from minted_connect.journal.sql_claims import READ_COLUMNS, ClaimStatements
from minted_connect.journal.statements import AWAITS_COMPLETION, IS_ACTIVE, IS_OPEN, Statements, state_literals

__all__ = [
    "APPLICATION_ID",
    "IDENTITY_VERSION",
    "KEY_VERSION",
    "STATEMENTS",
    "STEPS",
    "VERSION",
    "migrate",
    "statements_for",
]

APPLICATION_ID: Final = 0x4D4E5443
"""Value of `PRAGMA application_id` ("MNTC"), which identifies the file as a journal."""

_OPEN: Final = state_literals(OPEN)
_ACTIVE: Final = state_literals(ACTIVE)

STEPS: Final = (
    f"""
CREATE TABLE intents (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    external_customer_id TEXT NOT NULL,
    cart_token TEXT NOT NULL,
    basket_id INTEGER NOT NULL,
    guid TEXT NOT NULL,
    increment_id TEXT NOT NULL,
    price_token TEXT NOT NULL,
    paid_total TEXT NOT NULL,
    currency_code TEXT NOT NULL,
    items TEXT NOT NULL,
    created_at TEXT NOT NULL,
    state TEXT NOT NULL,
    order_id INTEGER
);
CREATE UNIQUE INDEX one_open ON intents (external_customer_id, cart_token) WHERE state IN ({_OPEN});
CREATE INDEX one_holder ON intents (external_customer_id, cart_token) WHERE state IN ({_ACTIVE});
PRAGMA application_id = {APPLICATION_ID}
""",
    f"""
ALTER TABLE intents ADD COLUMN clock_offset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE intents ADD COLUMN known_orders TEXT NOT NULL DEFAULT '[]';
ALTER TABLE intents ADD COLUMN progress TEXT;
ALTER TABLE intents ADD COLUMN finished INTEGER NOT NULL DEFAULT 0;
CREATE INDEX unfinished ON intents (state) WHERE {AWAITS_COMPLETION}
""",
    "ALTER TABLE intents ADD COLUMN fenced_at TEXT",
    # The library does not use `corrections` yet. `expires_elapsed` is a time of CLOCK_BOOTTIME, and valid only together
    # with `boot_id`.
    f"""
ALTER TABLE intents ADD COLUMN server TEXT;
ALTER TABLE intents ADD COLUMN account TEXT;
ALTER TABLE intents ADD COLUMN send_before TEXT;
ALTER TABLE intents ADD COLUMN refusal TEXT;
ALTER TABLE intents ADD COLUMN reference TEXT;
ALTER TABLE intents ADD COLUMN terms TEXT;
ALTER TABLE intents ADD COLUMN claim_generation INTEGER;
ALTER TABLE intents ADD COLUMN corrections TEXT;
DROP INDEX one_open;
DROP INDEX one_holder;
CREATE UNIQUE INDEX one_open ON intents (external_customer_id, cart_token, coalesce(account, ''))
    WHERE state IN ({_OPEN});
CREATE INDEX one_holder ON intents (external_customer_id, cart_token) WHERE {IS_ACTIVE};
CREATE INDEX open_ones ON intents (state) WHERE {IS_OPEN};
CREATE INDEX by_reference ON intents (account, reference) WHERE reference IS NOT NULL;
CREATE TABLE claims (
    account TEXT NOT NULL,
    reference TEXT NOT NULL,
    external_customer_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    terms TEXT NOT NULL,
    generation INTEGER NOT NULL,
    owner TEXT NOT NULL,
    holds_customer INTEGER NOT NULL,
    saw_basket INTEGER NOT NULL,
    cart_token TEXT,
    intent_id TEXT,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    expires_elapsed REAL,
    boot_id TEXT,
    PRIMARY KEY (account, reference)
);
CREATE TABLE journal (identity TEXT NOT NULL);
INSERT INTO journal VALUES (lower(hex(randomblob(16))));
CREATE UNIQUE INDEX one_claim ON claims (account, external_customer_id, kind) WHERE holds_customer
""",  # noqa: S608 - nothing interpolated is input
    """
ALTER TABLE intents ADD COLUMN decided_at TEXT;
CREATE INDEX same_reference ON intents (reference) WHERE reference IS NOT NULL;
ALTER TABLE claims ADD COLUMN grace REAL NOT NULL DEFAULT 0;
CREATE INDEX claim_of_intent ON claims (intent_id) WHERE intent_id IS NOT NULL
""",
    """
ALTER TABLE intents ADD COLUMN forgotten_at TEXT;
ALTER TABLE journal ADD COLUMN forgotten_before TEXT;
CREATE INDEX by_time ON intents (created_at)
""",
    "ALTER TABLE journal ADD COLUMN restored_from TEXT",
    """
ALTER TABLE journal ADD COLUMN imported_accounts TEXT;
ALTER TABLE intents ADD COLUMN imported_at TEXT;
ALTER TABLE intents ADD COLUMN assigned_at TEXT;
CREATE INDEX imported ON intents (external_customer_id) WHERE imported_at IS NOT NULL AND assigned_at IS NULL
""",
    "ALTER TABLE journal ADD COLUMN erasure_key TEXT; ALTER TABLE intents ADD COLUMN erased_at TEXT",
)
"""Migrations: step n leads from version n to n + 1. Never change a released step."""

VERSION: Final = len(STEPS)
"""The current schema version (`PRAGMA user_version`)."""

IDENTITY_VERSION: Final = 4
"""The first schema version with a random id in the table `journal`."""

KEY_VERSION: Final = 9
"""The first schema version with a key for the hashes of erased names."""

_ADDED_COLUMNS: Final = {
    2: ("clock_offset", "known_orders", "progress", "finished"),
    3: ("fenced_at",),
    4: ("server", "account", "send_before", "refusal", "reference", "terms"),
    5: ("decided_at",),
    6: ("forgotten_at",),
    8: ("imported_at", "assigned_at"),
    9: ("erased_at",),
}
"""Columns that the queries need, by the version that added them."""

_FORGETTING_VERSION: Final = 6
"""The first schema version that stores from before which time intents were forgotten."""

_CLAIMS_VERSION: Final = 5
"""The first schema version whose claims are used."""

_MARK_VERSION: Final = 8
"""The first schema version whose mark can be read as it is now."""

# The parameters `elapsed` and `boot_id` are those of `boot_clock_params`. A claim of another boot has expired, and can
# be taken over at once. The time of day is for people, and decides only where no boot id can be read.
_EXPIRES_IN: Final = (
    "CASE WHEN boot_id <> :boot_id THEN -grace WHEN boot_id = :boot_id THEN expires_elapsed - :elapsed "
    "ELSE (julianday(expires_at) - julianday('now')) * 86400 END"
)
_EXPIRY: Final = {
    "expires_at": "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now', printf('%.3f seconds', :seconds))",
    "expires_elapsed": ":elapsed + :seconds",
    "boot_id": ":boot_id",
}

STATEMENTS: Final = Statements.build(
    table="intents",
    sequence="rowid",
    journal="journal",
    claim_table="claims",
    claims=ClaimStatements.build(table="claims", expires_in=_EXPIRES_IN, expiry=_EXPIRY),
)
"""The statements for the current schema version."""


def statements_for(version: int) -> Statements:
    """Return statements whose queries work with an older schema version; its missing columns read as NULL or 0."""
    missing = [name for added, names in _ADDED_COLUMNS.items() if added > version for name in names]
    nulls = "".join(f", {'0' if name == 'finished' else 'NULL'} AS {name}" for name in missing)
    no_claims = ", ".join(f"NULL AS {name}" for name in READ_COLUMNS)
    claims = STATEMENTS.claims
    if version < _CLAIMS_VERSION:
        claims = ClaimStatements.build(table=f"(SELECT {no_claims} LIMIT 0)", expires_in="NULL")
    # A subquery with the columns of the table, which only a newer version has.
    journal = "journal" if version >= _FORGETTING_VERSION else "(SELECT NULL AS forgotten_before)"
    intents = f"(SELECT *, rowid AS number{nulls} FROM intents)"  # noqa: S608 - as above
    statements = Statements.build(
        table=intents, sequence="number", journal=journal, claim_table="claims", claims=claims
    )
    return statements if version >= _MARK_VERSION else attrs.evolve(statements, find_mark="SELECT NULL, NULL")


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Migrate a database from a schema version to the current one, inside the caller's transaction."""
    for step in STEPS[version:]:
        for statement in step.split(";"):
            database.execute(statement)
    # SQL functions of databases are not random enough for a key.
    database.execute("UPDATE journal SET erasure_key = ? WHERE erasure_key IS NULL", [secrets.token_hex(32)])
    database.execute(f"PRAGMA user_version = {VERSION}")
