"""[forward] of hsmitm.toml: the two CAs, and leaves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hsm import uri
from hsm.certificates.settings import LeafProfile
from hsm.effect import AtStart, SaidElsewhere
from proxy.config.section import Section, bounds, default, named


class AuthoritySection(Section, frozen=True):
    """[forward.trust] and [forward.untrust]: a CA's certificate, and its key's PKCS#11 URI."""

    certificate: str
    key: str

    def __post_init__(self) -> None:
        named("key", uri.parse, self.key)


class ForwardSection(Section, frozen=True):
    """[forward]: its CAs, how long leaves are valid (days), and how many each worker keeps."""

    trust: Annotated[AuthoritySection, SaidElsewhere()]
    untrust: Annotated[AuthoritySection, SaidElsewhere()]
    leaf_days: Annotated[int, bounds(LeafProfile, "days"), SaidElsewhere()] = default(LeafProfile, "days")
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000), AtStart("[forward] cache_entries")] = 10_000
