"""What the signing measurement signs with: a type of key and a TLS signature scheme. Knows no partition."""

from __future__ import annotations

from msgspec import Struct

from hsm.schemes import SCHEMES, PublicKey, Scheme
from hsm.wire.member import KeyType


class Kind(Struct, frozen=True):
    """A type of key, and the scheme that it is asked for. `name` is what the command line calls it."""

    name: str
    key_type: KeyType
    scheme: str

    @property
    def figure(self) -> str:
        """How its figures begin."""
        return self.name.replace("-", "")

    @property
    def tls(self) -> Scheme:
        """The scheme, which knows its mechanism and how it is verified."""
        return SCHEMES[self.scheme]


KINDS = {
    kind.name: kind
    for kind in (
        Kind("rsa-2048", "rsa-2048", "rsa_pkcs1_sha256"),
        Kind("rsa-2048-pss", "rsa-2048", "rsa_pss_rsae_sha256"),
        Kind("rsa-3072", "rsa-3072", "rsa_pkcs1_sha256"),
        Kind("rsa-3072-pss", "rsa-3072", "rsa_pss_rsae_sha256"),
        Kind("rsa-4096", "rsa-4096", "rsa_pkcs1_sha256"),
        Kind("rsa-4096-pss", "rsa-4096", "rsa_pss_rsae_sha256"),
        Kind("p256", "p256", "ecdsa_secp256r1_sha256"),
        Kind("p384", "p384", "ecdsa_secp384r1_sha384"),
    )
}


def kinds_of(public: PublicKey) -> list[Kind]:
    """What `public` can be measured as, the one that every client knows first; empty for a size of RSA that we lack."""
    return [
        kind
        for kind in KINDS.values()
        if kind.tls.fits(public) and (kind.tls.curve or kind.key_type == f"rsa-{public.key_size}")
    ]
