"""A key of the group: its URI, and the public key that every signature by it must verify with. No I/O."""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Struct

from hsm import wire
from hsm.schemes import PublicKey, Scheme
from hsm.uri import KeyURI


class Key(Struct, frozen=True):
    """`members` are the names of those that may hold it; None for all (an HA group)."""

    name: str
    uri: KeyURI
    public: PublicKey
    scheme: Scheme
    members: frozenset[str] | None = None

    @property
    def spki(self) -> bytes:
        """The public key (DER SubjectPublicKeyInfo, RFC 5280)."""
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def request(self, message: bytes, digest: bytes) -> wire.Sign:
        """What a member is asked for a signature of `message`, whose `digest` is of the scheme's size."""
        return wire.Sign(self.name, self.scheme.name, digest, message)

    def challenge(self) -> wire.Sign:
        """A fresh request that nobody outside chose: its signature proves the member and serves for nothing else."""
        challenge = secrets.token_bytes(32)
        return self.request(challenge, self.scheme.digest(challenge))

    def verifies(self, request: wire.Sign, signature: bytes) -> bool:
        """Whether `signature` is this key's, of the request's digest."""
        return self.scheme.verifies(self.public, request.digest, signature)
