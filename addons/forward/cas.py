"""The CAs that the signer has, as it last told, and which of them a client can verify.

There may be two of a kind, one with an RSA and one with an EC key: a client gets leaves of the first one whose
signatures it verifies, by what its ClientHello says.
"""

from __future__ import annotations

import logging
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from mitmproxy import certs

from addons.tls.client_hello import Schemes, can_verify
from hsm.errors import TryLaterError
from hsm.wire.client import SignerClient
from hsm.wire.worker import Authorities, Authority, Chains

logger = logging.getLogger("hsmitm.forward")

_KINDS: dict[Literal["trust", "untrust"], tuple[Authority, Authority]] = {
    "trust": ("trust", "trust-2"),
    "untrust": ("untrust", "untrust-2"),
}


class CAs:
    """One worker's knowledge of them."""

    def __init__(self, signer: SignerClient, timeout_s: float) -> None:
        """`timeout_s` is how long the signer may take to tell."""
        self._signer = signer
        self._timeout_s = timeout_s
        self._told: dict[Authority, list[bytes]] = {}
        self._own: dict[Authority, x509.Certificate] = {}
        self._chains: dict[Authority, tuple[certs.Cert, ...]] = {}
        self._learned = -1

    @property
    def known(self) -> bool:
        """Whether the signer has ever told: until then there is nothing to choose from."""
        return bool(self._told)

    @property
    def current(self) -> bool:
        """Whether what is known is of the signer that we are connected to."""
        return self._learned == self._signer.generation

    async def learn(self) -> bool:
        """Ask once for each connection to the signer: it may have been restarted with other CAs, and then no leaf of
        the old ones is worth keeping. Whether they are others than before. Raises HsmitmError."""
        generation = self._signer.generation
        reply = await self._signer.call(Authorities(several=True), self._timeout_s)
        assert isinstance(reply, Chains)
        others = self.known and reply.chains != self._told
        self._told, self._learned = reply.chains, generation
        self._own, self._chains = {}, {}
        for name, chain in reply.chains.items():
            loaded = [x509.load_der_x509_certificate(der) for der in chain]
            self._own[name] = loaded[0]
            self._chains[name] = tuple(certs.Cert(one) for one in loaded if one.subject != one.issuer)
        return others

    def chain(self, name: Authority) -> tuple[certs.Cert, ...]:
        """What a client is sent behind a leaf of that CA. Raises TryLaterError where there is no such CA any more."""
        try:
            return self._chains[name]
        except KeyError:
            raise TryLaterError(f"the signer has no forward-{name} CA any more") from None

    def choose(self, kind: Literal["trust", "untrust"], schemes: Schemes) -> Authority:
        """The first CA of a kind whose signatures a client verifies that has sent `schemes`; else the first one: it may
        verify more than it says (RFC 8446 section 4.4.2.2)."""
        there = [name for name in _KINDS[kind] if name in self._own]
        return next((name for name in there if self._verifies(name, schemes)), kind)

    def doubt(self, name: Authority, schemes: Schemes) -> str:
        """Why a client that has sent `schemes` will probably refuse leaves of that CA; empty where it will not."""
        if name not in self._own or self._verifies(name, schemes):
            return ""
        key = self._own[name].public_key()
        is_rsa = isinstance(key, rsa.RSAPublicKey)
        made = "RSA" if is_rsa else f"P-{getattr(key, 'key_size', 0)} ECDSA"
        kind = name.removesuffix("-2")
        advice = f": [forward.{kind}] can be a list of two, with an {'EC' if is_rsa else 'RSA'} CA beside this one"
        return (
            f"the client verifies no {made} signatures in certificates, as its ClientHello says, and the CA of "
            f"forward.{kind} makes no others" + (advice if f"{kind}-2" not in self._own else "")
        )

    def _verifies(self, name: Authority, schemes: Schemes) -> bool:
        return can_verify(schemes, self._own[name].public_key())
