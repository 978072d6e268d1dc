"""A private key for certificate builders alone: right type, right public half, and a signature of zeros.

`x509.CertificateBuilder.sign` accepts any subclass of the key types. Whatever would need a private half is refused.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsm.schemes import PublicKey


def stand_in(key: PublicKey) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """The stand-in whose public half is `key`."""
    return _RSA(key) if isinstance(key, rsa.RSAPublicKey) else _EC(key)


class _StandIn:
    def __init__(self, key: Any) -> None:
        self._key = key

    @property
    def key_size(self) -> int:
        return int(self._key.key_size)

    @property
    def curve(self) -> Any:
        return self._key.curve

    def public_key(self) -> Any:
        return self._key

    def sign(self, data: Any, *how: Any) -> bytes:
        return bytes(64)

    def _absent(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("the private half is on the partition")

    decrypt = exchange = private_numbers = private_bytes = __copy__ = __deepcopy__ = _absent


class _RSA(_StandIn, rsa.RSAPrivateKey):
    pass


class _EC(_StandIn, ec.EllipticCurvePrivateKey):
    pass
