"""[forward] of hsmitm.toml: the two CAs, and leaves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hsm import uri
from hsm.certificates.settings import BACKDATED, MAX_VALIDITY
from hsm.effect import AtStart, SaidElsewhere
from proxy.config.section import Section, named

_MAX_LEAF_DAYS = (MAX_VALIDITY - BACKDATED).days


class AuthoritySection(Section, frozen=True):
    """[forward.trust] and [forward.untrust]"""

    certificate: str
    key: str

    def __post_init__(self) -> None:
        named("key", uri.parse, self.key)


class ForwardSection(Section, frozen=True):
    """[forward]"""

    trust: Annotated[AuthoritySection, SaidElsewhere()]
    untrust: Annotated[AuthoritySection, SaidElsewhere()]
    leaf_days: Annotated[int, Meta(ge=1, le=_MAX_LEAF_DAYS), SaidElsewhere()] = 30
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000), AtStart("[forward] cache_entries")] = 10_000
