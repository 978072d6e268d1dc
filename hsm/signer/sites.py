"""The sites of inbound inspection: a server's own certificate, and its key. Reads files alone; workers use it, too.

Whoever may ask for signatures by an inbound key may have any digest signed with it. So no site may have a CA's key: a
worker that is taken over could sign itself a CA.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID
from msgspec import Struct

from hsm.errors import MisconfiguredError
from hsm.member.key import Key, inbound_key, inbound_name, spki_of
from hsm.schemes import PublicKey, certificate_scheme
from hsm.uri import KeyURI


class InboundSettings(Struct, frozen=True):
    """A site: a name for messages, its certificate (PEM, the leaf first), and its key on the partition.

    `decrypt` turns on RSA key exchange. `holder` is the member that holds the key; empty where any may (an HA group).
    """

    site: str
    certificate: Path
    key: KeyURI
    decrypt: bool = False
    holder: str = ""


class Site(Struct, frozen=True):
    """A site whose certificate (`chain`, the leaf first) was read. `key` is `hsm.member.key.inbound_name`."""

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


def load_chain(site: str, path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, a server's own first, whose key we sign with.

    Raises MisconfiguredError, naming the site and the file.
    """
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise MisconfiguredError(f"site {site}: cannot read the certificate {path}: {error.strerror}") from error
    except ValueError as error:
        raise MisconfiguredError(f"site {site}: {path} holds no PEM certificate: {error}") from error
    try:
        _refuse_ca(chain[0])
        _public(chain[0])
    except ValueError as error:
        raise MisconfiguredError(f"site {site}: {path}: {error}") from error
    return chain


def _load(settings: InboundSettings, cas: Collection[bytes]) -> Site:
    chain = load_chain(settings.site, settings.certificate)
    public = _public(chain[0])
    if spki_of(public) in cas:
        raise MisconfiguredError(
            f"site {settings.site}: {settings.certificate} has the key of a forward CA: workers could have anything "
            "signed with it. Give the site a key of its own"
        )
    return Site(settings, tuple(chain), public, inbound_name(public))


def _refuse_ca(leaf: x509.Certificate) -> None:
    """Raise ValueError for a CA; also where the extensions make no sense."""
    try:
        is_ca = leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return
    except Exception as error:  # cryptography raises several kinds for several kinds of garbage
        raise ValueError(f"its extensions cannot be read: {error}") from error
    if is_ca:
        raise ValueError(
            f"its first certificate, '{leaf.subject.rfc4514_string()}', is a CA; put the server's own first, then its "
            "issuers"
        )


def _public(leaf: x509.Certificate) -> PublicKey:
    """The certificate's key. Raises ValueError for one that we do not sign with."""
    if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ValueError("its key is bound to RSASSA-PSS; use one of rsaEncryption or of P-256 or P-384")
    try:
        public = leaf.public_key()
    except Exception as error:  # cryptography raises several kinds for keys that it does not know
        raise ValueError("its key is of a kind that is not known; RSA and EC keys are used") from error
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise ValueError(f"it has a key of type {type(public).__name__}; RSA and EC keys are used")  # noqa: TRY004  # of a file
    try:
        certificate_scheme(public)
    except ValueError as error:
        raise ValueError(f"it has {error}") from error
    return public


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
