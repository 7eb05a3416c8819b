"""The schema of a journal in SQLite: its versions, and how one becomes the next."""

from __future__ import annotations

from typing import Final

from minted_connect.journal.protocol import HOLDING, OPEN
from minted_connect.journal.rows import quoted
from minted_connect.journal.sql import HOLDING as HOLDS
from minted_connect.journal.sql import OPEN as IS_OPEN
from minted_connect.journal.sql import UNFINISHED, Statements

__all__ = ["APPLICATION", "IDENTIFIED", "STEPS", "VERSION", "statements_of"]

APPLICATION: Final = 0x4D4E5443
"""Marks the file as ours (`PRAGMA application_id`, "MNTC")."""

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
CREATE UNIQUE INDEX one_open ON intents (external_customer_id, cart_token) WHERE state IN ({quoted(OPEN)});
CREATE INDEX one_holder ON intents (external_customer_id, cart_token) WHERE state IN ({quoted(HOLDING)});
PRAGMA application_id = {APPLICATION}
""",
    f"""
ALTER TABLE intents ADD COLUMN clock_offset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE intents ADD COLUMN known_orders TEXT NOT NULL DEFAULT '[]';
ALTER TABLE intents ADD COLUMN progress TEXT;
ALTER TABLE intents ADD COLUMN finished INTEGER NOT NULL DEFAULT 0;
CREATE INDEX unfinished ON intents (state) WHERE {UNFINISHED}
""",
    "ALTER TABLE intents ADD COLUMN fenced_at TEXT",
    # `reference`, `terms`, `claim_generation`, `corrections` and the claims are filled by later versions. The times of
    # a claim come from the clock that runs on while the machine sleeps, and count within one boot only.
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
    WHERE state IN ({quoted(OPEN)});
CREATE INDEX one_holder ON intents (external_customer_id, cart_token) WHERE {HOLDS};
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
""",  # noqa: S608 - no word of it is input
)
"""The step from each version of the schema to the next. A released step is never changed."""

VERSION: Final = len(STEPS)
"""Of the schema (`PRAGMA user_version`)."""

IDENTIFIED: Final = 4
"""The version since which a journal has an identity."""

_ADDED: Final = {
    2: ("clock_offset", "known_orders", "progress", "finished"),
    3: ("fenced_at",),
    4: ("server", "account", "send_before", "refusal"),
}
"""Columns that reading needs, by the version that added them."""


def statements_of(version: int) -> Statements:
    """Return statements that read a file of an older schema, whose missing columns are NULL."""
    missing = [name for since, names in _ADDED.items() if since > version for name in names]
    nulls = "".join(f", {'0' if name == 'finished' else 'NULL'} AS {name}" for name in missing)
    return Statements.of(table=f"(SELECT *, rowid AS age{nulls} FROM intents)", age="age")  # noqa: S608 - no input
