"""[forward] of hsmitm.toml: the two CAs, and leaves."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hsm import uri
from hsm.certificates.settings import LeafProfile
from hsm.effect import AtStart, SaidElsewhere
from hsm.wire.worker import Authority
from proxy.config.section import Section, bounds, default, named

_MOST = 2
"""CAs of a kind."""


class AuthoritySection(Section, frozen=True):
    """[forward.trust] and [forward.untrust]: a CA's certificate, and its key's PKCS#11 URI."""

    certificate: str
    key: str

    def __post_init__(self) -> None:
        named("key", uri.parse, self.key)


class ForwardSection(Section, frozen=True):
    """[forward]: its CAs, how long leaves are valid (days), and how many each worker keeps.

    `trust` and `untrust` are one table each, or a list of two: an RSA CA and an EC one, in order of preference.
    """

    trust: Annotated[AuthoritySection | list[AuthoritySection], SaidElsewhere()]
    untrust: Annotated[AuthoritySection | list[AuthoritySection], SaidElsewhere()]
    leaf_days: Annotated[int, bounds(LeafProfile, "days"), SaidElsewhere()] = default(LeafProfile, "days")
    cache_entries: Annotated[int, Meta(ge=1, le=1_000_000), AtStart("[forward] cache_entries")] = 10_000

    def __post_init__(self) -> None:
        for kind, given in (("trust", self.trust), ("untrust", self.untrust)):
            if isinstance(given, list) and not 1 <= len(given) <= _MOST:
                raise ValueError(
                    f"{kind}: a list of {len(given)}; give one CA, or two: one with an RSA key, one with EC"
                )

    @property
    def authorities(self) -> dict[Authority, AuthoritySection]:
        """Every CA, by its name between processes."""
        trust, untrust = _listed(self.trust), _listed(self.untrust)
        found: dict[Authority, AuthoritySection] = {"trust": trust[0], "untrust": untrust[0]}
        if len(trust) == _MOST:
            found["trust-2"] = trust[1]
        if len(untrust) == _MOST:
            found["untrust-2"] = untrust[1]
        return found


def _listed(given: AuthoritySection | list[AuthoritySection]) -> list[AuthoritySection]:
    return given if isinstance(given, list) else [given]


def written(name: str) -> str:
    """Where the file has the CA `name`: "trust", or "trust[1]" for the second."""
    return f"{name.removesuffix('-2')}[1]" if name.endswith("-2") else name
