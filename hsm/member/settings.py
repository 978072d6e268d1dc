"""One partition as the configuration names it."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from hsm import vendor_codes
from hsm.codes import Kind
from hsm.secrets.settings import PinSource
from hsm.wire.member import Selector


class MemberSettings(Struct, frozen=True, kw_only=True):
    """`base` is the directory that relative paths start from.

    `start_timeout_s` is the longest from exec to a logged-in member with its keys found: a network HSM's client may
    take 20 s to set up its TLS.

    `codes` is what return codes of the vendor's own call for, beside and before the rows of `hsm.vendor_codes`.
    ValueError for a code of the standard.
    """

    name: str
    module: str
    selector: Selector
    pin: PinSource
    sessions: int
    environment: dict[str, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
    start_timeout_s: float = 20.0
    codes: dict[int, Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code in self.codes:
            vendor_codes.check(code)


class Failover(Struct, frozen=True, kw_only=True):
    """The operator's part of [hsm]. Changes at runtime take effect with the next request."""

    auto_recovery_retry: int = 0
    attempt_timeout_s: float = 0.5
    budget_s: float = 1.5
    keep_alive_s: float = 5.0

    @property
    def hang_s(self) -> float:
        """An operation that a session has not finished after this time hangs."""
        return max(1.0, 2 * self.attempt_timeout_s)
