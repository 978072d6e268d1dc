"""Which private key is the one of a public half, where no attribute tells: a signature does.

A private key signs once, whoever is looked for: its signature is kept, and every public half is tried on it. So a
member with hundreds of keys that cannot be told apart costs so many signatures at most, once for each process, and a
bounded part of them in each round, whatever number of keys it looks for: the next one goes on where this one ended.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from hsm import codes
from hsm.codes import Kind
from hsm.errors import MemberLostError, RefusedError
from hsm.schemes import SCHEMES, PublicKey, Scheme

MOST = 64
"""Private keys that sign in one round."""
_MOST_S = 5.0
"""How long they may take together: a slow HSM makes fewer. A member has 20 s to start."""
ROUND_S = 20.0
"""From one round to the next: less than from one look for missing keys to the next."""

Mark = tuple[int, str, bytes]
"""A private key as a process sees it: its handle, CKA_LABEL and CKA_ID. A handle alone may come to name another."""


class Signing(Protocol):
    """A private key that may be asked: `hsm.token.private_key`."""

    @property
    def mark(self) -> Mark:
        """Which it is."""

    @property
    def signs(self) -> bool:
        """Whether the token lets it sign."""

    def sign(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes:
        """A signature. Raises RefusedError, MemberLostError."""


class _Signed(Struct, frozen=True):
    """What a private key signed; no scheme where it signs nothing."""

    scheme: Scheme | None
    digest: bytes = b""
    signature: bytes = b""

    def by(self, public: PublicKey) -> bool:
        """Whether the signature is of this public half."""
        scheme = self.scheme
        return scheme is not None and scheme.fits(public) and scheme.verifies(public, self.digest, self.signature)


class Challenges:
    """What the private keys of one token signed. Used by all sessions' threads."""

    def __init__(self) -> None:
        self._signed: dict[tuple[Mark, str], _Signed] = {}
        self._began = self._asked = self._took_s = 0.0

    def find[Key: Signing](self, public: PublicKey, keys: Sequence[Key]) -> tuple[Key | None, int]:
        """The first of `keys` that signs as `public`, and how many were not asked: they are too many for one round.

        Raises what a session or an HSM that fails raises.
        """
        new = []
        for key in keys:
            signed = self._signed.get((key.mark, _kind(public)))
            if signed is None:
                new.append(key)
            elif signed.by(public):
                return key, 0
        for place, key in enumerate(new):
            if not self._room():
                return None, len(new) - place
            if self._ask(key, public).by(public):
                return key, 0
        return None, 0

    def proves(self, key: Signing, halves: Iterable[PublicKey]) -> PublicKey | None:
        """The one of these public halves as which the key signs; None where it does not, or was not asked."""
        for public in halves:
            signed = self._signed.get((key.mark, _kind(public)))
            if signed is None and self._room():
                signed = self._ask(key, public)
            if signed is not None and signed.by(public):
                return public
        return None

    def _room(self) -> bool:
        """Whether this round has room for one more signature."""
        now = time.monotonic()
        if not self._asked or now - self._began > ROUND_S:
            self._began, self._asked, self._took_s = now, 0, 0
        return self._asked < MOST and self._took_s < _MOST_S

    def _ask(self, key: Signing, public: PublicKey) -> _Signed:
        started = time.monotonic()
        try:
            return self._asked_of(key, public)
        finally:
            self._asked += 1
            self._took_s += time.monotonic() - started

    def _asked_of(self, key: Signing, public: PublicKey) -> _Signed:
        signed = _Signed(None)
        message = secrets.token_bytes(32)
        for scheme in SCHEMES.values() if key.signs else ():
            if not scheme.fits(public):
                continue
            digest = scheme.digest(message)
            try:
                signed = _Signed(scheme, digest, key.sign(scheme, digest, message))
                break
            except RefusedError:  # this scheme's mechanism is not there, or not allowed
                continue
            except MemberLostError as error:  # what one odd key says must not hide the others
                if codes.called_for(error) is not Kind.AMBIGUOUS:
                    raise
                return signed  # not kept: it may pass
        self._signed[key.mark, _kind(public)] = signed
        return signed


def _kind(public: PublicKey) -> str:
    """Where the curve of a private key is not told, it is asked once for each."""
    return public.curve.name if isinstance(public, ec.EllipticCurvePublicKey) else "RSA"
