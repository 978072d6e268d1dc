"""A key of the group: its URI, and the public key that every signature by it must verify with. No I/O.

Two kinds, and what may be asked of each: a CA's key signs certificates that the signer built, in the first scheme that
a member makes. An inbound key, a server's own, signs whatever a worker's handshakes need, in every scheme that fits it,
and may decrypt.
"""

from __future__ import annotations

import secrets

from msgspec import Struct, structs

from hsm.certificates.files import inbound_name, spki_of
from hsm.schemes import SCHEMES, PublicKey, Scheme, certificate_scheme
from hsm.uri import KeyURI
from hsm.wire.member import Sign

DECRYPTION = "decryption"
"""What stands for a scheme where a member is asked to decrypt."""


class Key(Struct, frozen=True):
    """`members` are the names of those that may hold it; None for all (an HA group).

    `scheme` is the preferred one, `others` are those that may be asked for beside or, for a CA's key, instead of it.
    `sites` names the sites of an inbound key; a CA's key has none. `decrypts` is whether it may decrypt.
    """

    name: str
    uri: KeyURI
    public: PublicKey
    scheme: Scheme
    members: frozenset[str] | None = None
    others: tuple[Scheme, ...] = ()
    sites: tuple[str, ...] = ()
    decrypts: bool = False
    spki: bytes = b""
    """Of the public key (DER, RFC 5280), whatever is given here: each use of an inbound key looks at it."""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "spki", spki_of(self.public))

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that it may be asked for, the preferred one first."""
        return (self.scheme, *self.others)

    @property
    def inbound(self) -> bool:
        """Whether workers may have digests of their own signed with it."""
        return bool(self.sites)

    @property
    def title(self) -> str:
        """What an operator calls it."""
        return f"key of {', '.join(self.sites)}" if self.sites else f"forward-{self.name} key"

    def request(self, message: bytes | None, digest: bytes, scheme: Scheme | None = None) -> Sign:
        """What a member is asked for a signature of `message` (None where only its digest is there), whose `digest` is
        of the size of `scheme`, by default the key's own."""
        return Sign(self.name, (scheme or self.scheme).name, digest, message)

    def challenge(self, scheme: Scheme | None = None, *, whole: bool = False) -> Sign:
        """A fresh request that nobody outside chose: its signature proves the member and serves for nothing else.

        It is of the kind that the key is used for: a CA's key gets the message, too, a handshake has its digest alone.
        `whole` gives the message all the same.
        """
        scheme, challenge = scheme or self.scheme, secrets.token_bytes(32)
        message = challenge if whole or not self.inbound else None
        return self.request(message, scheme.digest(challenge), scheme)

    def verifies(self, request: Sign, signature: bytes) -> bool:
        """Whether `signature` is this key's, of the request's digest, in the request's scheme."""
        scheme = SCHEMES.get(request.scheme)
        return (
            scheme is not None and scheme.fits(self.public) and scheme.verifies(self.public, request.digest, signature)
        )


def inbound_key(
    uri: KeyURI,
    public: PublicKey,
    sites: tuple[str, ...],
    *,
    decrypts: bool = False,
    members: frozenset[str] | None = None,
) -> Key:
    """The key of these sites (at least one), for every scheme that fits it.

    Raises ValueError for a key that we do not sign with.
    """
    if not sites:
        raise ValueError("an inbound key without a site")
    preferred = certificate_scheme(public)
    others = tuple(one for one in SCHEMES.values() if one.fits(public) and one is not preferred)
    return Key(inbound_name(public), uri, public, preferred, members, others, sites, decrypts)
