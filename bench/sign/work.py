"""What every depth of the signing measurement signs, and how it proves that it was signed."""

from __future__ import annotations

import random
import time

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bench.sign.player import Load
from hsm.schemes import SCHEMES, PublicKey

_DIGESTS = 64
_VERIFICATIONS = 20


def digests(load: Load) -> list[bytes]:
    """Digests of the scheme's size, the same for the same seed."""
    chance = random.Random(load.seed)  # noqa: S311
    return [chance.randbytes(SCHEMES[load.scheme].digest_size) for _ in range(_DIGESTS)]


def verified(load: Load, digest: bytes, signature: bytes) -> list[str]:
    """Nothing where `signature` is the key's, of `digest`; an error otherwise."""
    good = SCHEMES[load.scheme].verifies(_public(load), digest, signature)
    return [] if good else [f"a signature of {load.scheme} does not verify"]


def verification_us(load: Load, digest: bytes, signature: bytes) -> float:
    """What one verification takes here and now, in microseconds: the signer makes one for each signature."""
    scheme, public, began = SCHEMES[load.scheme], _public(load), time.perf_counter()
    for _ in range(_VERIFICATIONS):
        scheme.verifies(public, digest, signature)
    return 1e6 * (time.perf_counter() - began) / _VERIFICATIONS


def _public(load: Load) -> PublicKey:
    public = load_der_public_key(load.spki)
    assert isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    return public
