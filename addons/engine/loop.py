"""The worker's event loop: uvloop where it is installed, with four things that mitmproxy leaves to the loop.

* Listening sockets get SO_REUSEPORT, so that all workers accept on one port and the kernel spreads connections.
* Connections to servers have a limit in time; the kernel's own is two minutes.
* A connection to a server on behalf of a client is made by who is named in `CONNECT`, once: where a name leads to is
  looked at before anybody connects. Whoever else connects from this loop, as a user's script, goes the loop's own way.
* Python 3.13.0's eager task factory does not know the `eager_start` argument that uvloop 0.22 and later pass on; the
  wrapper drops it. (mitmproxy's master installs that factory; without this every task fails to start.)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

try:
    from uvloop import Loop as _BaseLoop
except ImportError:  # not a platform that uvloop is built for
    _BaseLoop = asyncio.SelectorEventLoop  # type: ignore[assignment,misc]


Create = Callable[..., Awaitable[Any]]
"""The base class's `create_connection`, with its protocol."""
Connect = Callable[[str, int, tuple[Any, ...] | None, Create], Awaitable[Any]]
"""Create a connection to host and port, from a local address. Raises OSError."""
CONNECT: ContextVar[Connect | None] = ContextVar("connect", default=None)
"""How the next connection of this task is made."""
_BACKLOG = 1024


class WorkerLoop(_BaseLoop):
    """An event loop for one worker."""

    def __init__(self, connect_timeout_s: float) -> None:
        """`connect_timeout_s`: name resolution and TCP handshake together."""
        super().__init__()
        self._connect_timeout_s = connect_timeout_s

    async def create_server(self, *args: Any, **kwargs: Any) -> Any:
        """As the base class, with SO_REUSEPORT, and a line in front of the door for those who come all at once."""
        return await super().create_server(*args, **(kwargs | {"reuse_port": True, "backlog": _BACKLOG}))

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """As the base class, with a limit in time. Raises TimeoutError, an OSError, with a sentence."""
        connect = CONNECT.get()
        CONNECT.set(None)
        limit = asyncio.timeout(self._connect_timeout_s)
        try:
            async with limit:
                if connect is None:
                    return await super().create_connection(protocol_factory, *args, **kwargs)
                local = kwargs.pop("local_addr", None)
                create = functools.partial(super().create_connection, protocol_factory, **kwargs)
                return await connect(args[0], args[1], local, create)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(f"no connection within {self._connect_timeout_s:g} s") from error

    def set_task_factory(self, factory: Callable[..., Any] | None) -> None:
        """As the base class; asyncio's eager factory is wrapped."""
        wrapped: Any = _eager_task_factory if factory is asyncio.eager_task_factory else factory
        super().set_task_factory(wrapped)


def _eager_task_factory(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any
) -> asyncio.Task[Any]:
    kwargs.pop("eager_start", None)  # it is always True here: that is what the factory is
    task: asyncio.Task[Any] = asyncio.eager_task_factory(loop, coro, **kwargs)
    return task
