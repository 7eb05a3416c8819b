"""The sandbox: an embedded, stateful server of the Minted Connect API for development and tests.

It needs no network and no account, and shares no code with the client. `python -m minted_connect.sandbox` runs it as a
process of its own.
"""

from .active_faults import Fault, FaultKind, Faults
from .clock import Clock, ManualClock, MovableClock, SystemClock
from .pricing import FeeSchedule
from .request_log import LoggedRequest, RequestLog
from .server import Sandbox
from .settings import Rules, Settings
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
