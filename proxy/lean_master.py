"""mitmproxy's master with a quicker way from a hook to those who want it.

mitmproxy walks every addon for each hook, of which a connection has about twenty: a quarter of a worker's time. Here
the handlers of each hook are looked up once. With a user's scripts mitmproxy's own way stays: they come and go when
their file is edited.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from mitmproxy import exceptions, flow, hooks
from mitmproxy.addonmanager import AddonManager, safecall, traverse
from mitmproxy.master import Master
from mitmproxy.options import Options

_Handler = Callable[..., Any]


class LeanAddons(AddonManager):
    """An AddonManager that remembers who handles what."""

    def __init__(self, master: Master) -> None:
        super().__init__(master)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers: dict[str, list[_Handler]] = {}
        self._fields: dict[type[hooks.Hook], tuple[str, ...]] = {}
        self._changing = False

    def add(self, *addons: object) -> None:
        """As AddonManager's."""
        self._handlers.clear()
        super().add(*addons)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._changing = any(hasattr(one, "addons") for one in self.chain)

    def remove(self, addon: object) -> None:
        """As AddonManager's."""
        super().remove(addon)  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers.clear()

    def clear(self) -> None:
        """As AddonManager's."""
        super().clear()  # type: ignore[no-untyped-call]  # mitmproxy's, unannotated
        self._handlers.clear()

    async def handle_lifecycle(self, event: hooks.Hook) -> None:
        """As AddonManager's."""
        if self._changing:
            await super().handle_lifecycle(event)
            return
        await self.trigger_event(event)
        if self._handled(hooks.UpdateHook.name):
            (message,) = self._arguments(event)
            if isinstance(message, flow.Flow):
                await self.trigger_event(hooks.UpdateHook([message]))

    async def trigger_event(self, event: hooks.Hook) -> None:
        """As AddonManager's."""
        if self._changing:
            await super().trigger_event(event)
            return
        arguments = self._arguments(event)
        for handler in self._handled(event.name):
            try:
                result = handler(*arguments)
                if result is not None and inspect.isawaitable(result):
                    await result
            except exceptions.AddonHalt:
                return
            except exceptions.OptionsError:
                raise
            except Exception:  # told as mitmproxy tells it
                with safecall():
                    raise

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


class LeanMaster(Master):
    """A worker's master."""

    def __init__(self, options: Options, event_loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(options, event_loop=event_loop)
        self.addons = LeanAddons(self)
