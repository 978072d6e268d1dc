"""One partition as the configuration names it, and how requests go over several. Defaults and bounds stand here alone:
the tables of the configuration refer to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct, field

from hsm import vendor_codes
from hsm.codes import Kind
from hsm.secrets.settings import PinSource
from hsm.wire.member import USER, Selector


class MemberSettings(Struct, frozen=True, kw_only=True):
    """`base` is the directory that relative paths start from.

    `start_timeout_s` is the longest from exec to a logged-in member with its keys found: a network HSM's client may
    take 20 s to set up its TLS.

    `user_type` is whom C_Login logs in, the user unless a vendor has another for it; `read_write` opens read-write
    sessions at once (a token that refuses read-only ones is noticed).

    `codes` is what return codes of the vendor's own call for, beside and before the rows of `hsm.vendor_codes`.
    ValueError for a code of the standard.
    """

    name: str
    module: str
    selector: Selector
    pin: PinSource
    sessions: Annotated[int, Meta(ge=1, le=1024)] = 8
    environment: dict[str, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path)
    start_timeout_s: Annotated[float, Meta(ge=1, le=600)] = 20.0
    codes: dict[int, Kind] = field(default_factory=dict)
    user_type: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = USER
    read_write: bool = False

    @property
    def place(self) -> str:
        """What its PIN is for: the same one for another partition, or another type of user, is another try."""
        return f"{self.module}\0{self.selector}\0{self.user_type:x}"

    def __post_init__(self) -> None:
        for code in self.codes:
            vendor_codes.check(code)


class Failover(Struct, frozen=True, kw_only=True):
    """The operator's part of [hsm]. Changes at runtime take effect with the next request."""

    auto_recovery_retry: Annotated[int, Meta(ge=0, le=500)] = 0
    attempt_timeout_s: Annotated[float, Meta(ge=0.05, le=60)] = 0.5
    budget_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.5
    keep_alive_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0

    @property
    def hang_s(self) -> float:
        """An operation that a session has not finished after this time hangs."""
        return max(1.0, 2 * self.attempt_timeout_s)
