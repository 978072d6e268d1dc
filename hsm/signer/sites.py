"""The sites of inbound inspection: a server's own certificate, and its key. Reads files alone.

Whoever may ask for signatures by an inbound key may have any digest signed with it. So no site may have a CA's key: a
worker that is taken over could sign itself a CA.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from cryptography import x509
from msgspec import Struct

from hsm.certificates.files import inbound_name, load_chain, public_key_of, spki_of
from hsm.errors import MisconfiguredError
from hsm.member.key import Key, inbound_key
from hsm.schemes import PublicKey
from hsm.signer.settings import InboundSettings


class Site(Struct, frozen=True):
    """A site whose certificate (`chain`, the leaf first) was read. `key` is `hsm.certificates.files.inbound_name`."""

    settings: InboundSettings
    chain: tuple[x509.Certificate, ...]
    public: PublicKey
    key: str

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.settings.site


class Sites(Struct, frozen=True):
    """Every site, and their keys: several sites may share one."""

    sites: tuple[Site, ...] = ()
    keys: Mapping[str, Key] = {}


def load_sites(
    settings: Sequence[InboundSettings], cas: Collection[bytes], members: Iterable[str], *, anywhere: bool
) -> Sites:
    """The sites of `settings`, whose keys are on `members`; `anywhere` in an HA group, where the public key tells.

    `cas` are the public keys (DER SPKI) that no site may have. Raises MisconfiguredError, naming the site and the file.
    """
    sites = tuple(_load(one, cas) for one in settings)
    shared: dict[str, list[Site]] = {}
    for site in sites:
        shared.setdefault(site.key, []).append(site)
    everyone = frozenset(members)
    return Sites(sites, {name: _key(each, everyone, anywhere=anywhere) for name, each in shared.items()})


def _load(settings: InboundSettings, cas: Collection[bytes]) -> Site:
    chain = load_chain(settings.site, settings.certificate)
    public = public_key_of(chain[0])
    if spki_of(public) in cas:
        raise MisconfiguredError(
            f"site {settings.site}: {settings.certificate} has the key of a forward CA: workers could have anything "
            "signed with it. Give the site a key of its own"
        )
    return Site(settings, tuple(chain), public, inbound_name(public))


def _key(sites: list[Site], everyone: frozenset[str], *, anywhere: bool) -> Key:
    """The one key of all `sites`."""
    first = sites[0]
    for other in sites[1:]:
        for what, one, another in (
            ("key", str(first.settings.key), str(other.settings.key)),
            ("member", first.settings.holder, other.settings.holder),
        ):
            if one != another:
                raise MisconfiguredError(
                    f"sites {first.name} and {other.name} have the same key, and name it differently: {what} "
                    f"'{one}' and '{another}'; name it alike"
                )
    uri, holder = first.settings.key, first.settings.holder
    return inbound_key(
        uri.anywhere() if anywhere else uri,
        first.public,
        tuple(dict.fromkeys(site.name for site in sites)),
        decrypts=any(site.settings.decrypt for site in sites),
        members=None if anywhere else frozenset({holder}) if holder else everyone,
    )
