"""An embedded, stateful Minted Connect to build and test against, without a network or an account.

It shares no code with the client. `python -m minted_connect.sandbox` serves it by hand.
"""

from .clock import Clock, ManualClock, MovableClock, SystemClock
from .errors import Rules
from .faults import Fault, FaultKind, Faults
from .pricing import FeeSchedule
from .request_log import LoggedRequest, RequestLog
from .server import Sandbox
from .settings import Settings
from .threaded import ThreadedSandbox

__all__ = [
    "Clock",
    "Fault",
    "FaultKind",
    "Faults",
    "FeeSchedule",
    "LoggedRequest",
    "ManualClock",
    "MovableClock",
    "RequestLog",
    "Rules",
    "Sandbox",
    "Settings",
    "SystemClock",
    "ThreadedSandbox",
]
