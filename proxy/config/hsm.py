"""[hsm] of hsmitm.toml: the group and its members."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, field

from hsm import uri, vendor_codes
from hsm.secrets.settings import PinSource
from proxy.config.section import Section

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,30}\Z")]
"""A member's name: ASCII, at most 31 characters."""


class MemberSection(Section, frozen=True):
    """[[hsm.members]]"""

    name: Name
    module: str
    pin: PinSource
    token: Annotated[str, Meta(min_length=1)] | None = None
    serial: Annotated[str, Meta(min_length=1)] | None = None
    slot: Annotated[int, Meta(ge=0)] | None = None
    sessions: Annotated[int, Meta(ge=1, le=1024)] = 8
    environment: dict[str, str] = field(default_factory=dict)
    start_timeout_s: Annotated[float, Meta(ge=1, le=600)] = 20.0
    codes: dict[str, vendor_codes.Word] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for code, word in self.codes.items():
            try:
                vendor_codes.row(code, word)
            except ValueError as error:
                raise ValueError(f"codes: {error}") from None
        if sum(value is not None for value in (self.token, self.serial, self.slot)) != 1:
            raise ValueError("name the partition by exactly one of token (its label), serial, slot")

    def may_be(self, key: uri.KeyURI) -> bool:
        """Whether this could be the partition that the URI names, as far as the configuration tells."""
        pairs = ((key.token, self.token), (key.serial, self.serial))
        return not any(named and ours and named.strip() != ours.strip() for named, ours in pairs)


class HsmSection(Section, frozen=True):
    """[hsm]"""

    members: Annotated[list[MemberSection], Meta(min_length=1, max_length=16)]
    high_availability: bool = False
    group: Name = "hsmitm"
    auto_recovery_retry: Annotated[int, Meta(ge=0, le=500)] = 0
    attempt_timeout_ms: Annotated[int, Meta(ge=50, le=60_000)] = 500
    request_budget_ms: Annotated[int, Meta(ge=100, le=60_000)] = 1500
    keep_alive_s: Annotated[float, Meta(ge=0.1, le=3600)] = 5.0
    unavailable: str = "fail"

    def __post_init__(self) -> None:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError("two members have the same name")
        if self.high_availability and len(names) < 2:
            raise ValueError("high_availability: an HA group has at least two members; add one, or set it to false")
        if self.attempt_timeout_ms > self.request_budget_ms:
            raise ValueError(
                f"attempt_timeout_ms: {self.attempt_timeout_ms} is more than a whole request may take "
                f"(request_budget_ms: {self.request_budget_ms})"
            )
        if not re.fullmatch(r"fail|cached-only|queue:[0-9]{1,5}", self.unavailable):
            raise ValueError(f"unavailable: '{self.unavailable}' is none; use fail, cached-only or queue:MS")

    @property
    def queue_s(self) -> float:
        """How long a request waits for a member when none is in service, beyond its budget."""
        kind, _, milliseconds = self.unavailable.partition(":")
        return int(milliseconds) / 1000 if kind == "queue" else 0.0

    def holder(self, key: uri.KeyURI) -> str:
        """Without high availability: the one member whose partition holds `key`. Raises ValueError."""
        if len(self.members) == 1:
            return self.members[0].name  # if that is another partition, the member says so, with what it sees
        possible = [member.name for member in self.members if member.may_be(key)]
        if not possible:
            raise ValueError(f"no member has the partition that {key} names")
        if len(possible) > 1:
            raise ValueError(
                f"{key} could be on the partition of {' or '.join(possible)}; name the partition in the URI by token "
                "or serial, as the member does; or, if they hold the same key, set hsm.high_availability = true"
            )
        return possible[0]
