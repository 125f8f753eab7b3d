"""asyncio, trio and anyio over Receiver and Sender: the same calls, awaited.

The package root imports this package when it is first used, so that `import mcast_fast` needs no asyncio.
"""

from mcast_fast.aio._arbiter import Arbiter
from mcast_fast.aio._receiver import Receiver
from mcast_fast.aio._sender import Sender

__all__ = ["Arbiter", "Receiver", "Sender"]
