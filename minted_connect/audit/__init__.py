"""Compares the journals of an account with its orders, day by day. Used by `minted audit`. Reads only.

`import_orders` is the exception: it stores the orders since a backup in the journal that was restored from it.

- **Days are UTC.** An order belongs to the day of its `order_at`, which is the time of its basket and not of the
  purchase. An intent belongs to the day on which it was created, by the server's clock. What an intent and its order
  differ in belongs to the day of the intent.
- **An order is the order of an intent** if it belongs to the same customer and has the token, the guid or the order
  number of the basket, or the number that the journal has stored. An equal total proves nothing.
- **Orders are read from one day before to one day after the days to audit**, because an order can be dated before its
  purchase. If the order of a confirmed or open intent is not among them, the customer's own list is read as a whole.
  An order without an intent is found only by an audit of the day of its basket: audit a day again if baskets stay open
  for long. The order of an intent that is settled as not bought is searched only among those of these days.
- **A confirmed intent is recent** for `Timeouts.complete_total`, `orders_lag` and `latest_landing` after it was
  created: until then, its order may not be listed yet. It is counted in `AuditReport.recent`, and is not a finding.
- **Journals are read after the orders**, so that every listed order had its intent when they were read.
- **The same intent in two journals** (a copy) counts once: as confirmed if one of them has it confirmed, else as
  settled.
- **Wallets are compared between two snapshots only**, with the orders that the customer's own list has gained or lost
  in between: orders have no time of purchase, and a wallet alone proves nothing. The wallet of a customer with a recent
  purchase counts as unread.
- **Forgotten intents prove nothing**: `complete.forget` removes settled intents without a reference. An order from
  before that time without an intent is reported as unread, not as a finding.
- **Only intents of the account of the client are compared**, and those without an account. The others are counted.
"""

from __future__ import annotations

from minted_connect.audit.importing import ImportReport, KnownReference, import_orders
from minted_connect.audit.report import AuditReport, Finding, FindingKind, Unread, as_json
from minted_connect.audit.run import audit
from minted_connect.audit.wallets import CustomerWallet, WalletSnapshot

__all__ = [
    "AuditReport",
    "CustomerWallet",
    "Finding",
    "FindingKind",
    "ImportReport",
    "KnownReference",
    "Unread",
    "WalletSnapshot",
    "as_json",
    "audit",
    "import_orders",
]
