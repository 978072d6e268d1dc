"""[hsm] of hsmitm.toml: the group and its members. Defaults and bounds are those of the signer's settings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from hsm import unavailable, uri, vendor_codes
from hsm.member.settings import Failover, MemberSettings
from hsm.secrets.settings import PinSource
from hsm.signer.settings import Quotas, SignerSettings
from hsm.wire.member import USER
from proxy.config.section import Section, bounds, bounds_ms, default, default_ms, named

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,30}\Z",
        description="1 to 31 ASCII letters, digits, dots, underscores or hyphens, beginning with a letter or digit",
    ),
]
"""A member's name, or a group's."""


UserType = Literal["user", "crypto-user"] | Annotated[int, bounds(MemberSettings, "user_type")]
"""Whom a member logs in: CKU_USER, or Luna's Crypto User, who may sign and make no keys; another vendor's by number."""
_USER_TYPES = {"user": USER, "crypto-user": 0x80000001}


def user_type_number(given: UserType) -> int:
    """A type of user as a CK_USER_TYPE of PKCS#11."""
    return given if isinstance(given, int) else _USER_TYPES[given]


class MemberSection(Section, frozen=True):
    """[[hsm.members]]: one partition, named by exactly one of `token`, `serial` and `slot`."""

    name: Name
    module: str
    pin: PinSource
    token: Annotated[str, Meta(min_length=1)] | None = None
    serial: Annotated[str, Meta(min_length=1)] | None = None
    slot: Annotated[int, Meta(ge=0)] | None = None
    sessions: Annotated[int, bounds(MemberSettings, "sessions")] = default(MemberSettings, "sessions")
    environment: dict[str, str] = field(default_factory=dict)
    start_timeout_s: Annotated[float, bounds(MemberSettings, "start_timeout_s")] = default(
        MemberSettings, "start_timeout_s"
    )
    codes: dict[str, vendor_codes.Word] = field(default_factory=dict)
    user_type: UserType = "user"
    read_write: bool = default(MemberSettings, "read_write")

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
    """[hsm]: the members, and how requests go over them."""

    members: Annotated[list[MemberSection], bounds(SignerSettings, "members")]
    high_availability: bool = False
    group: Name = "hsmitm"
    auto_recovery_retry: Annotated[int, bounds(Failover, "auto_recovery_retry")] = default(
        Failover, "auto_recovery_retry"
    )
    attempt_timeout_ms: Annotated[int, bounds_ms(Failover, "attempt_timeout_s")] = default_ms(
        Failover, "attempt_timeout_s"
    )
    request_budget_ms: Annotated[int, bounds_ms(Failover, "budget_s")] = default_ms(Failover, "budget_s")
    keep_alive_s: Annotated[float, bounds(Failover, "keep_alive_s")] = default(Failover, "keep_alive_s")
    unavailable: str = default(SignerSettings, "unavailable")
    mints_per_s: Annotated[float, bounds(Quotas, "mints_per_s")] = default(Quotas, "mints_per_s")
    decryptions_per_s: Annotated[float, bounds(Quotas, "decryptions_per_s")] = default(Quotas, "decryptions_per_s")

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
        named("unavailable", unavailable.check, self.unavailable)

    @property
    def queue_s(self) -> float:
        """How long a request waits for a member when none is in service, beyond its budget."""
        return unavailable.queue_s(self.unavailable)

    @property
    def failover(self) -> Failover:
        """How requests go over the members; times in seconds."""
        return Failover(
            auto_recovery_retry=self.auto_recovery_retry,
            attempt_timeout_s=self.attempt_timeout_ms / 1000,
            budget_s=self.request_budget_ms / 1000,
            keep_alive_s=self.keep_alive_s,
        )

    @property
    def quotas(self) -> Quotas:
        """What each worker may have of the members."""
        return Quotas(mints_per_s=self.mints_per_s, decryptions_per_s=self.decryptions_per_s)

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
