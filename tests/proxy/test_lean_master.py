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

from proxy.lean_master import HookShortcut, LeanMaster


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


@pytest.mark.parametrize("kind", ["asynchronous", "asynchronous update", "children", "intercept"])
async def test_a_hook_that_may_wait_goes_mitmproxys_way(master: LeanMaster, kind: str) -> None:
    """Where a handler is asynchronous, where addons come and go, or where flows can be intercepted, the hook is left to
    mitmproxy, and nobody has been called."""
    called: list[str] = []

    class AwaitedUpdate(Noting):
        async def update(self, _flows: list[object]) -> None: ...

    added = {
        "asynchronous": Awaited("a", called),
        "asynchronous update": AwaitedUpdate("a", called),
        "children": Parent(),
        "intercept": Noting("intercept", called),
    }
    master.addons.add(Noting("first", called), added[kind])
    assert _commands(master) == ["before", "hook"]
    assert called == []
