"""The worker's own leaf keys. They live and die with the worker; the CA's key is never here.

One key for each kind, made once in a worker's life: a leaf's key protects a connection on a network of the operator's
own, and a new RSA key for each host would cost 100 ms of the event loop's core.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LeafKind = Literal["p256", "rsa-2048"]
LeafPrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class LeafKeys:
    """P-256 at once; RSA-2048 when the first client needs it, made off the event loop."""

    def __init__(self) -> None:
        self._keys: dict[LeafKind, LeafPrivateKey] = {"p256": ec.generate_private_key(ec.SECP256R1())}
        self._making = asyncio.Lock()

    def known(self, kind: LeafKind) -> LeafPrivateKey | None:
        """The private key of `kind`, if it is made."""
        return self._keys.get(kind)

    async def key(self, kind: LeafKind) -> LeafPrivateKey:
        """The private key of `kind`."""
        if kind not in self._keys:
            async with self._making:
                if kind not in self._keys:
                    self._keys[kind] = await asyncio.to_thread(rsa.generate_private_key, 65537, 2048)
        return self._keys[kind]

    async def spki(self, kind: LeafKind) -> bytes:
        """The public half as DER SubjectPublicKeyInfo, as a mint carries it."""
        public = (await self.key(kind)).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
