"""One partition as the configuration names it."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from hsm.secrets.pin import PinSource
from hsm.wire.member import Selector


class MemberSettings(Struct, frozen=True, kw_only=True):
    """`base` is the directory that relative paths start from.

    `start_timeout_s` is the longest from exec to a logged-in member with its keys found: a network HSM's client may
    take 20 s to set up its TLS.
    """

    name: str
    module: str
    selector: Selector
    pin: PinSource
    sessions: int
    environment: dict[str, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
    start_timeout_s: float = 20.0
