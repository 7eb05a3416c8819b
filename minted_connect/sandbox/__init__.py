"""An embedded, stateful Minted Connect to build and test against, without a network or an account.

It shares no code with the client. `python -m minted_connect.sandbox` serves it by hand.
"""

from .clock import Clock, ManualClock, MovableClock, SystemClock
from .faults import Fault, FaultKind, Faults
from .log import LoggedRequest, RequestLog
from .options import Settings
from .pricing import Rates
from .rules import Rules
from .server import Sandbox
from .threaded import ThreadedSandbox

__all__ = [
    "Clock",
    "Fault",
    "FaultKind",
    "Faults",
    "LoggedRequest",
    "ManualClock",
    "MovableClock",
    "Rates",
    "RequestLog",
    "Rules",
    "Sandbox",
    "Settings",
    "SystemClock",
    "ThreadedSandbox",
]
