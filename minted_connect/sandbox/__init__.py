"""An embedded, stateful Minted Connect to build and test against, without a network or an account.

It shares no code with the client. `python -m minted_connect.sandbox` serves it by hand.
"""

from .clock import ManualClock, SystemClock
from .faults import Fault
from .log import LoggedRequest
from .pricing import Rates
from .server import Sandbox
from .threaded import ThreadedSandbox

__all__ = ["Fault", "LoggedRequest", "ManualClock", "Rates", "Sandbox", "SystemClock", "ThreadedSandbox"]
