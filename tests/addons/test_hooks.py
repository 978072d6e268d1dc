"""mitmproxy calls every method of an addon that has a hook's name, whatever it was meant for."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from mitmproxy import hooks
from mitmproxy.proxy.layer import Layer

import addons
from addons import seam
from addons.edge.settings import Bounds

seam.put_in(Bounds())
_NO_ADDONS = {"addons.edge.http2.session.Session"}
"""Classes with such a method that no mitmproxy gets: one connection's nghttp2."""
_HOOKS = {name: len(dataclasses.fields(kind)) for name, kind in hooks.all_hooks.items()}


def _classes() -> Iterator[type]:
    for found in pkgutil.walk_packages(addons.__path__, "addons."):
        module = importlib.import_module(found.name)
        ours = (one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == found.name)
        yield from (one for one in ours if not issubclass(one, Layer))  # no layer is an addon


def _faults(classes: Iterator[type]) -> list[str]:
    found = []
    for kind in classes:
        for name, method in vars(kind).items():
            if name not in _HOOKS or not inspect.isfunction(method):
                continue
            if f"{kind.__module__}.{kind.__qualname__}" in _NO_ADDONS:
                continue
            try:
                inspect.signature(method).bind(None, *[None] * _HOOKS[name])
            except TypeError as error:
                found.append(f"{kind.__module__}.{kind.__name__}.{name}: {error}")
    return found


def test_no_method_is_taken_for_a_hook_that_it_is_not() -> None:
    """A method of ours that has a hook's name takes what mitmproxy calls it with: otherwise each of a worker's answers
    would fail in it."""
    assert _faults(_classes()) == []


def test_one_that_would_be_is_seen() -> None:
    """The page's maker under its first name, which mitmproxy took for its hook."""

    class Pages:
        def response(self, facts: object, *, kind: str) -> None:
            """Not the hook."""

    assert len(_faults(iter([Pages]))) == 1
    with pytest.raises(TypeError):
        Pages().response(None)  # type: ignore[call-arg]  # as mitmproxy would
