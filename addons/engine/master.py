"""mitmproxy's master with a quicker way from a hook to those who want it.

mitmproxy walks every addon for each hook, of which a connection has about twenty, and makes a task for each: together a
third of a worker's time. Here the handlers of each hook are looked up once, and as long as none of them has to wait
they are called from among the layer's own commands (`HookShortcut`), in the order in which mitmproxy would have called
them. A handler that has to wait now and then is a plain function that returns an awaitable then.

With a user's scripts, which come and go when their file is edited, and where flows can be intercepted, mitmproxy's own
way stays.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

from mitmproxy import ctx, exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, safecall, traverse
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events, layer, mode_servers, server_hooks

from addons.engine import backpressure
from addons.engine.backpressure import Turns
from addons.engine.loop import CONNECT
from addons.engine.outgoing import Outgoing

_Handler = Callable[..., Any]


class LeanAddons(AddonManager):
    """An AddonManager that remembers who handles what."""

    def __init__(self, master: Master) -> None:
        super().__init__(master)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers: dict[str, list[_Handler]] = {}
        self._fields: dict[type[hooks.Hook], tuple[str, ...]] = {}
        self._begun: dict[hooks.Hook, tuple[Awaitable[object], Iterator[_Handler]]] = {}
        self._updates: set[asyncio.Task[None]] = set()
        self._changing = False

    def add(self, *addons: object) -> None:
        """AddonManager's; who handles what is looked up anew."""
        self._handlers.clear()
        super().add(*addons)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._changing = any(hasattr(one, "addons") for one in self.chain) or "intercept" in self.lookup

    def remove(self, addon: object) -> None:
        """AddonManager's; who handles what is looked up anew."""
        super().remove(addon)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers.clear()

    def clear(self) -> None:
        """AddonManager's; nobody handles anything from here on."""
        super().clear()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers.clear()

    def at_once(self, event: hooks.Hook) -> bool:
        """Handle `event` now, as far as that needs no waiting. Whether it was handled; if not, `handle_lifecycle` goes
        on where somebody has to wait."""
        if self._changing:
            return False
        arguments = self._arguments(event)
        handlers = iter(self._handled(event.name))
        waiting = self._called(handlers, arguments)
        if waiting is not None:
            self._begun[event] = (waiting, handlers)
            return False
        if isinstance(arguments[0], flow.Flow) and self._handled(hooks.UpdateHook.name):
            update = hooks.UpdateHook([arguments[0]])
            if not self.at_once(update):
                task = asyncio.get_running_loop().create_task(self.trigger_event(update))
                self._updates.add(task)
                task.add_done_callback(self._updates.discard)
        return True

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        """AddonManager's, going on where `at_once` met a handler that has to wait."""
        if self._changing:
            await super().handle_lifecycle(event)
            return
        await self.trigger_event(event)
        if self._handled(hooks.UpdateHook.name):
            (message,) = self._arguments(event)
            if isinstance(message, flow.Flow):
                await self.trigger_event(hooks.UpdateHook([message]))

    async def trigger_event(self, event: hooks.Hook) -> None:
        """AddonManager's, going on where `at_once` met a handler that has to wait."""
        if self._changing:
            await super().trigger_event(event)
            return
        arguments = self._arguments(event)
        waiting, handlers = self._begun.pop(event, (None, iter(self._handled(event.name))))
        while waiting is not None or (waiting := self._called(handlers, arguments)) is not None:
            try:
                with safecall():
                    await waiting
            except exceptions.AddonHalt:
                return
            waiting = None

    @staticmethod
    def _called(handlers: Iterator[_Handler], arguments: list[Any]) -> Awaitable[object] | None:
        """Call `handlers` in turn, up to one that has to wait: what it waits for. None: all were called."""
        for handler in handlers:
            try:
                result = handler(*arguments)
            except exceptions.AddonHalt:
                return None
            except exceptions.OptionsError:
                raise
            except Exception:  # told as mitmproxy tells it
                with safecall():
                    raise
            else:
                if result is not None and inspect.isawaitable(result):
                    return result
        return None

    def _handled(self, name: str) -> list[_Handler]:
        handlers = self._handlers.get(name)
        if handlers is None:
            found = (getattr(one, name, None) for one in traverse(self.chain))
            handlers = self._handlers[name] = [one for one in found if callable(one)]
        return handlers

    def _arguments(self, event: hooks.Hook) -> list[Any]:
        kind = type(event)
        names = self._fields.get(kind)
        if names is None:
            names = self._fields[kind] = tuple(one.name for one in dataclasses.fields(event))  # type: ignore[arg-type]
        return [getattr(event, name) for name in names]


class HookShortcut:
    """In front of a connection's outermost layer: hooks that can be handled at once never reach the event loop."""

    def __init__(self, outermost: layer.Layer, addons: LeanAddons) -> None:
        self.outermost = outermost
        self.context = outermost.context
        self._addons = addons
        self._outgoing = Outgoing(outermost.context.client)
        self.turns = Turns()

    def handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        """As the layer's own, without those hooks; what they let go on goes on behind the commands that came first."""
        waiting: deque[events.Event] = deque((event,))
        outgoing, turns = self._outgoing, self.turns
        while waiting or turns.next(waiting):
            for command in self.outermost.handle_event(waiting.popleft()):
                if isinstance(command, commands.SendData):
                    ready = outgoing.send(command)
                    if ready is not None:
                        yield ready
                elif isinstance(command, commands.StartHook) and self._addons.at_once(command):
                    outgoing.established(command)
                    if command.blocking:
                        waiting.append(events.HookCompleted(command))
                elif not turns.take(command):
                    yield from outgoing.before(command)
                    yield command
        yield from outgoing.after(event)


class LeanConnectionHandler(mode_servers.ProxyConnectionHandler):
    """mitmproxy's, with the shortcut in front of its layers."""

    @property
    def layer(self) -> Any:
        """The outermost layer, behind its shortcut."""
        return self._shortcut

    @layer.setter
    def layer(self, outermost: layer.Layer) -> None:
        self._shortcut = HookShortcut(outermost, cast(LeanAddons, ctx.master.addons))

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """As mitmproxy's. Behind `server_connect`, which may name another server, comes the connection to it."""
        await super().handle_hook(hook)
        connecting = ctx.master.addons.get("connecting")
        if isinstance(hook, server_hooks.ServerConnectHook) and connecting is not None:
            outermost = self._shortcut.outermost
            stated, preface = getattr(outermost, "stated", None), getattr(outermost, "preface", None)
            first = preface(hook.data.server.address) if preface is not None else b""
            CONNECT.set(functools.partial(connecting.connect, self.client, stated, first))

    async def drain_writers(self) -> None:
        """mitmproxy's, for the connection that was read from; it is read on when nobody has too much of it."""
        reading = backpressure.whose(self.transports, self.client)
        await backpressure.written(self.transports, reading)
        await self._shortcut.turns.readable(reading)

    async def wakeup(self, request: commands.RequestWakeup) -> None:
        """mitmproxy's; some wait for a socket instead of a clock."""
        if isinstance(request, backpressure.WhenDrained):
            await backpressure.drained(self.transports.get(request.connection))
        await super().wakeup(request)


class LeanMaster(Master):
    """A worker's master."""

    def __init__(self, options: Options, event_loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(options, event_loop=event_loop)
        self.addons = LeanAddons(self)
