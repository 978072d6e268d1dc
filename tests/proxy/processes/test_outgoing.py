"""proxy/processes/outgoing.py: how a worker's configuration reaches those who connect."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from addons.edge.connecting.errands import DeniedError, Parent
from addons.edge.refusal import Refusals
from addons.revocation.status import Status
from proxy.config.section import Address
from proxy.config.worker import load
from proxy.processes.outgoing import Outgoing


def made(directory: Path, text: str) -> Status:
    """What a worker of this configuration has to ask with."""
    (directory / "hsmitm.toml").write_text(text)
    ours, registry = [Address("127.0.0.1", 8080)], CollectorRegistry()
    [status] = [
        one
        for one in Outgoing(load(directory / "hsmitm.toml"), ours, Refusals(registry), registry).addons
        if isinstance(one, Status)
    ]
    return status


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("", None),
        ('mode = "socks5"', None),
        ('mode = "upstream:http://next.example:3128"', Parent("next.example", 3128)),
        ('mode = "upstream:https://next.example"', Parent("next.example", 443, tls=True)),
        (
            'mode = "upstream:http://next.example:3128"\n[mitmproxy]\noptions = { upstream_auth = "me:secret" }',
            Parent("next.example", 3128, "Basic bWU6c2VjcmV0"),
        ),
    ],
)
def test_the_next_proxy(tmp_path: Path, text: str, parent: Parent | None) -> None:
    """Who asks CAs goes the way that all goes, and says what the next proxy wants to hear."""
    assert made(tmp_path, f"[proxy]\n{text}\n")._checks._servers._errands.parent == parent  # type: ignore[attr-defined]


async def test_what_certificates_may_name(tmp_path: Path) -> None:
    """The lists of destinations hold for them, and our own listeners are nobody's to name."""
    errands = made(tmp_path, '[proxy]\nallow_destinations = ["127.0.0.0/8"]\n')._checks._servers._errands  # type: ignore[attr-defined]
    with pytest.raises(DeniedError, match="own-listeners"):
        await errands.connect("127.0.0.1", 8080)
    with pytest.raises(DeniedError, match="loopback"):
        await errands.connect("::1", 8081)
    with pytest.raises(ConnectionRefusedError):
        await errands.connect("127.0.0.1", 1)
