"""Policies and facts for the tests of this package, made in a line."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from addons.policy.rules import Compiled, compiled
from addons.policy.settings import Policy
from addons.records.facts import Facts

MONDAY = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


def policy(text: str) -> Compiled:
    """Compiled from what stands under [policy]: `[[rules]]` and all."""
    return compiled(msgspec.toml.decode(text, type=Policy))


def facts(host: str = "", **known: Any) -> Facts:
    """A client at 10.1.2.3 that asks for port 443 on a Monday at noon; more in keywords."""
    given: dict[str, Any] = {"client_ip": "10.1.2.3", "port": 443, "at": MONDAY} | known
    return Facts(id="test", began=MONDAY.timestamp(), began_monotonic=0.0, host=host, **given)


def greeted(host: str = "", sni: str | None = None, **known: Any) -> Facts:
    """The same with a ClientHello, whose SNI is the host unless another is given."""
    return facts(host, hello=True, sni=host if sni is None else sni, **known)
