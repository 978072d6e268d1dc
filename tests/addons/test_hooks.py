"""What mitmproxy calls of an addon, by its name alone."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from mitmproxy import hooks
from mitmproxy.proxy import layer, layers, server_hooks

import addons
from addons.edge.http2.session import Session
from addons.engine.stock_addons import LeanOptions
from addons.pages.pages import Pages

_ = layers, server_hooks  # importing them is what makes their hooks known


def _classes() -> Iterator[type]:
    """Whatever could be an addon."""
    for module in pkgutil.walk_packages(addons.__path__, "addons."):
        for _name, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if one.__module__ == module.name and not issubclass(one, layer.Layer | LeanOptions | Session):
                yield one


def _wrongly_named(one: type) -> list[str]:
    """Methods that mitmproxy would call with arguments that they do not take."""
    wrong = []
    for name, hook in hooks.all_hooks.items():
        method = inspect.getattr_static(one, name, None)
        if not inspect.isfunction(method):
            continue
        try:
            inspect.signature(method).bind(None, *inspect.signature(hook).parameters)
        except TypeError:
            wrong.append(f"{one.__module__}.{one.__qualname__}.{name}")
    return wrong


def test_a_method_with_a_hooks_name_is_a_hook() -> None:
    """mitmproxy calls whatever has the name of one of its hooks: a page was once asked for at each answer."""
    assert [wrong for one in _classes() for wrong in _wrongly_named(one)] == []


def test_one_that_is_none_is_seen() -> None:
    """The test above finds a method with a hook's name and arguments of its own."""

    class Told(Pages):
        def response(self, *, kind: str) -> str:
            return kind

    assert _wrongly_named(Told) != []
