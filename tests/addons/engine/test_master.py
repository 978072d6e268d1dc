"""Hooks reach their handlers as mitmproxy would have them, and sooner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mitmproxy import exceptions, hooks
from mitmproxy.addonmanager import AddonManager
from mitmproxy.options import Options
from mitmproxy.proxy import commands, context, events, layer
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import tflow

from addons.engine.master import HookShortcut, LeanMaster


class Noting:
    """An addon that says who was called."""

    def __init__(self, name: str, called: list[str]) -> None:
        self.name = name
        self.called = called

    def request(self, _flow: object) -> None:
        self.called.append(self.name)


class Awaited(Noting):
    """One whose hook is asynchronous."""

    async def request(self, _flow: object) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.called.append(f"{self.name} after a wait")


class Failing(Noting):
    """One that fails."""

    def request(self, _flow: object) -> None:
        raise ValueError("a fault of the addon")


class Halting(Noting):
    """One that wants no other to be asked."""

    def request(self, _flow: object) -> None:
        self.called.append(self.name)
        raise exceptions.AddonHalt


class Updated(Noting):
    """One that wants to know of changed flows."""

    def update(self, flows: list[object]) -> None:
        self.called.append(f"{self.name}: {len(flows)} changed")


class Parent:
    """One with children, as mitmproxy's script loader is: they may change at any time."""

    name = "parent"

    def __init__(self) -> None:
        self.addons: list[Any] = []


@pytest.fixture
async def master() -> AsyncIterator[LeanMaster]:
    """A master without addons."""
    made = LeanMaster(Options(), asyncio.get_running_loop())
    yield made
    made._legacy_log_events.uninstall()


async def _request(master: LeanMaster) -> None:
    await master.addons.handle_lifecycle(HttpRequestHook(tflow.tflow()))


async def test_every_handler_is_called_in_order(master: LeanMaster) -> None:
    """Addons are asked in the order in which they were added, and one that waits is waited for."""
    called: list[str] = []
    master.addons.add(Noting("a", called), Awaited("b", called), Updated("c", called))
    await _request(master)
    assert called == ["a", "b after a wait", "c", "c: 1 changed"]


async def test_an_addon_that_fails_stops_no_other(master: LeanMaster, caplog: pytest.LogCaptureFixture) -> None:
    """A fault in an addon is logged as mitmproxy logs it, and the others are asked all the same."""
    called: list[str] = []
    master.addons.add(Failing("a", called), Noting("b", called))
    with caplog.at_level(logging.ERROR):
        await _request(master)
    assert called == ["b"]
    assert caplog.messages == ["Addon error: a fault of the addon"]


async def test_an_addon_can_halt_the_others(master: LeanMaster) -> None:
    """mitmproxy's AddonHalt ends the round."""
    called: list[str] = []
    master.addons.add(Halting("a", called), Noting("b", called))
    await _request(master)
    assert called == ["a"]


async def test_addons_that_come_and_go_are_noticed(master: LeanMaster) -> None:
    """What is remembered of one round does not outlive a change of the addons."""
    called: list[str] = []
    first, second = Noting("a", called), Noting("b", called)
    master.addons.add(first)
    await _request(master)
    master.addons.add(second)
    await _request(master)
    master.addons.remove(first)
    await _request(master)
    assert called == ["a", "a", "b", "b"]
    master.addons.clear()
    await _request(master)
    assert called == ["a", "a", "b", "b"]


async def test_children_may_change_at_any_time(master: LeanMaster) -> None:
    """A script that is edited is loaded anew inside of its loader: what it does now is what counts."""
    called: list[str] = []
    parent = Parent()
    master.addons.add(parent)
    await _request(master)
    parent.addons = [Noting("child", called)]
    await _request(master)
    parent.addons = []
    await _request(master)
    assert called == ["child"]


async def test_the_quick_way_is_mitmproxys(master: LeanMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks without a flow reach their handlers too, and no addon is walked for them."""
    ran = []

    class Runs:
        def running(self) -> None:
            ran.append("running")

    master.addons.add(Runs())
    monkeypatch.setattr(AddonManager, "_iter_hooks", None)
    await master.addons.trigger_event(hooks.RunningHook())
    assert ran == ["running"]


class Top(layer.Layer):
    """A layer that asks for a hook, and says what came before and after."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        yield commands.Log("before")
        yield HttpRequestHook(tflow.tflow())
        yield commands.Log("after")


def _top(master: LeanMaster) -> Top:
    return Top(context.Context(tflow.tclient_conn(), master.options))


def _commands(master: LeanMaster) -> list[str]:
    shortcut = HookShortcut(_top(master), master.addons)
    return [one.message if isinstance(one, commands.Log) else "hook" for one in shortcut.handle_event(events.Start())]


async def test_a_hook_that_needs_no_waiting_is_handled_on_the_spot(master: LeanMaster) -> None:
    """A layer's hook reaches its handlers without a task, and the layer goes on behind it."""
    called: list[str] = []
    master.addons.add(Noting("a", called), Updated("b", called))
    assert _commands(master) == ["before", "after"]
    assert called == ["a", "b", "b: 1 changed"]


async def test_a_fault_on_the_spot_stops_nobody(master: LeanMaster, caplog: pytest.LogCaptureFixture) -> None:
    """An addon that fails, or halts the others, leaves the layer going on."""
    called: list[str] = []
    master.addons.add(Failing("a", called), Halting("b", called), Noting("c", called))
    with caplog.at_level(logging.ERROR):
        assert _commands(master) == ["before", "after"]
    assert called == ["b"]
    assert caplog.messages == ["Addon error: a fault of the addon"]


async def test_a_handler_that_has_to_wait_is_waited_for(master: LeanMaster) -> None:
    """Handlers up to the first that waits are called on the spot; it and those behind it when the hook is handled, each
    once and in order."""
    called: list[str] = []
    master.addons.add(Noting("a", called), Awaited("b", called), Noting("c", called), Updated("d", called))
    shortcut = HookShortcut(_top(master), master.addons)
    _, hook = shortcut.handle_event(events.Start())
    assert isinstance(hook, HttpRequestHook)
    assert called == ["a"]
    await master.addons.handle_lifecycle(hook)
    assert called == ["a", "b after a wait", "c", "d", "d: 1 changed"]
    assert not master.addons._begun


@pytest.mark.parametrize("ending", ["fails", "halts"])
async def test_a_wait_that_ends_badly(master: LeanMaster, ending: str, caplog: pytest.LogCaptureFixture) -> None:
    """A handler that fails after a wait stops no other; one that halts stops all."""
    called: list[str] = []

    class Ends(Noting):
        async def request(self, _flow: object) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            raise exceptions.AddonHalt if ending == "halts" else ValueError("after a wait")

    master.addons.add(Ends("a", called), Noting("b", called))
    _, hook = HookShortcut(_top(master), master.addons).handle_event(events.Start())
    assert isinstance(hook, HttpRequestHook)
    with caplog.at_level(logging.ERROR):
        await master.addons.handle_lifecycle(hook)
    assert called == ([] if ending == "halts" else ["b"])
    assert caplog.messages == ([] if ending == "halts" else ["Addon error: after a wait"])


async def test_an_update_that_waits_is_made(master: LeanMaster) -> None:
    """A flow's update that has to wait is made beside, and holds up nobody."""
    called: list[str] = []
    done = asyncio.Event()

    class AwaitedUpdate(Noting):
        async def update(self, _flows: list[object]) -> None:
            await asyncio.sleep(0)
            done.set()

    master.addons.add(AwaitedUpdate("a", called))
    assert _commands(master) == ["before", "after"]
    async with asyncio.timeout(5):
        await done.wait()


@pytest.mark.parametrize("kind", ["children", "intercept"])
async def test_where_addons_change_hooks_go_mitmproxys_way(master: LeanMaster, kind: str) -> None:
    """Where addons come and go, or where flows can be intercepted, the hook is left to mitmproxy, and nobody has been
    called."""
    called: list[str] = []
    added = {"children": Parent(), "intercept": Noting("intercept", called)}
    master.addons.add(Noting("first", called), added[kind])
    assert _commands(master) == ["before", "hook"]
    assert called == []


class Sender(layer.Layer):
    """A layer that sends in pieces."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        client, server = self.context.client, self.context.server
        yield commands.SendData(client, b"head ")
        yield HttpRequestHook(tflow.tflow())
        yield commands.SendData(client, b"body")
        yield commands.SendData(server, b"other")
        yield commands.SendData(client, b"more")
        yield commands.CloseConnection(client)
        yield commands.SendData(server, b"last")


async def test_pieces_go_out_together_and_in_order(master: LeanMaster) -> None:
    """What is sent to one connection in one go is one write; nothing overtakes anything."""
    master.addons.add(Noting("a", []))
    sender = Sender(context.Context(tflow.tclient_conn(), master.options))
    said = [
        one.data.decode() if isinstance(one, commands.SendData) else "close"
        for one in HookShortcut(sender, master.addons).handle_event(events.Start())
    ]
    assert said == ["head body", "other", "more", "close", "last"]


class Flood(layer.Layer):
    """A layer that sends much at once."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        for _ in range(20_000):
            yield commands.SendData(self.context.client, bytes(5000))


async def test_a_large_body_is_not_copied_over_and_over(master: LeanMaster) -> None:
    """A hundred megabytes in pieces go out in writes of 64 KiB at most, all of them, and soon."""
    flood = Flood(context.Context(tflow.tclient_conn(), master.options))
    async with asyncio.timeout(10):
        sizes = [
            len(one.data)
            for one in HookShortcut(flood, master.addons).handle_event(events.Start())
            if isinstance(one, commands.SendData)
        ]
    assert sum(sizes) == 100_000_000
    assert max(sizes) <= 65536
    assert len(sizes) < 1700
