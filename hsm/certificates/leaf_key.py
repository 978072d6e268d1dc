"""The public key that a worker wants a leaf for: which ones are fit for it. No I/O, no clock, no HSM.

A leaf says that its key is a server's; one whose private half anybody can work out says it for everybody. Workers of
ours make sound keys: what is refused here comes from one that is broken or taken over. Not every weak modulus can be
known by looking at it; NIST SP 800-89 section 5.3.3 and the CA/Browser Forum's Baseline Requirements (section 6.1.6)
say what to look for, and a little more is cheap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsm.errors import RefusedError
from hsm.schemes import PublicKey

_BITS = range(2048, 4097)
_EXPONENTS = range(65537, 1 << 64)
"""The Baseline Requirements allow less than 2^256; some clients read no more than 64 bits."""
_SMALL = 1 << 16
"""No prime below divides a modulus. The standards ask for 752."""
_SMOOTH = 1000
"""What Pollard's p - 1 is tried with: finds moduli that are made of many primes, too."""
_NEAR = 100
_KNOWN = 256
_LONGEST_EC = 128
"""Bytes of a P-256 key: 91. An RSA key of 2048 bits has 294."""


def leaf_key(spki: bytes) -> PublicKey:
    """The key of a DER SubjectPublicKeyInfo (RFC 5280) in canonical form: P-256, or RSA with 2048 to 4096 bits.

    Raises RefusedError, naming what is wrong with it.
    """
    found = _examined.get(spki)
    if found is None:
        found = _examine(spki)
        if len(_examined) >= _KNOWN:
            del _examined[next(iter(_examined))]
        _examined[spki] = found
    if isinstance(found, str):
        raise RefusedError(found)
    return found


def cost(spki: bytes) -> float:
    """What `leaf_key` will cost: nothing, or for an RSA key that it has not seen lately 1 for 2048 bits (some 30 ms of
    a core), and more for more."""
    return (len(spki) / 294) ** 3 if len(spki) > _LONGEST_EC and spki not in _examined else 0.0


def secret_of(key: PublicKey) -> tuple[str, int]:
    """What two public keys have in common where whoever has the private half of one has that of the other: RSA keys of
    one modulus, whatever their exponents, and a point and its opposite."""
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa", key.public_numbers().n
    return key.curve.name, key.public_numbers().x


_examined: dict[bytes, PublicKey | str] = {}
"""Of the keys that were asked for lately: the key, or what is wrong with it. A worker has one or two for its life."""


def _examine(spki: bytes) -> PublicKey | str:
    try:
        key = load_der_public_key(spki)
    except Exception:  # noqa: BLE001  # cryptography raises several kinds for several kinds of garbage
        return "the leaf's public key is not a SubjectPublicKeyInfo"
    if isinstance(key, rsa.RSAPublicKey):
        right = key.key_size in _BITS
    else:  # a point that is not on its curve is not loaded (SEC 1 section 3.2.2)
        right = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    if not right or key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        return "a leaf's key is P-256 or RSA with 2048 to 4096 bits"
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    if isinstance(key, rsa.RSAPublicKey) and (fault := _fault(key.public_numbers())):
        return f"the leaf's RSA key has {fault}"
    return key


def _fault(numbers: rsa.RSAPublicNumbers) -> str:
    """What is wrong with an RSA key, as far as that can be seen soon; empty for nothing."""
    if numbers.e not in _EXPONENTS or not numbers.e % 2:
        return "a public exponent that is not odd and from 65537 on (and below 2^64)"
    return next((fault for fault, has in _FAULTS.items() if has(numbers.n)), "")


def _has_small_factor(n: int) -> bool:
    return not n % 2 or math.gcd(_products()[0] % n, n) > 1


def _is_prime(n: int) -> bool:
    """Fermat's test: for a product of two primes of that size it holds with no chance at all."""
    return pow(2, n - 1, n) == 1


def _is_smooth(n: int) -> bool:
    """Pollard's p - 1, which finds a modulus of many primes, too."""
    return math.gcd(pow(2, _products()[1], n) - 1, n) > 1


@functools.cache
def _products() -> tuple[int, int]:
    """The product of all primes below _SMALL, and of the highest power below _SMOOTH of each prime."""
    sieve = bytearray([1]) * _SMALL
    sieve[:2] = b"\0\0"
    for number in range(2, math.isqrt(_SMALL) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, _SMALL, number)))
    primes = [number for number in range(_SMALL) if sieve[number]]
    return math.prod(primes), math.prod(
        prime ** int(math.log(_SMOOTH, prime)) for prime in primes if prime < _SMOOTH
    )  # fmt: skip


def _is_power(n: int) -> bool:
    """Whether `n`, which has no factor below _SMALL, is a power: so of an exponent below the quotient of their bits."""
    return any(_root(n, exponent) ** exponent == n for exponent in range(2, n.bit_length() // 16 + 1))


def _root(n: int, exponent: int) -> int:
    """The integer part of a root (Newton's method, from above)."""
    if exponent == 2:
        return math.isqrt(n)
    root = 1 << -(-n.bit_length() // exponent)
    while True:
        following = ((exponent - 1) * root + n // root ** (exponent - 1)) // exponent
        if following >= root:
            return root
        root = following


def _is_near_square(n: int) -> bool:
    """Fermat's factorisation: some steps find two factors that share the upper half of their digits and more."""
    middle = math.isqrt(n) + 1
    for number in range(middle, middle + _NEAR):
        rest = number * number - n
        if math.isqrt(rest) ** 2 == rest:
            return True
    return False


_FAULTS: dict[str, Callable[[int], bool]] = {
    "a modulus with a small factor": _has_small_factor,
    "a modulus that is a power": _is_power,
    "a modulus of two factors that are close together": _is_near_square,
    "a modulus that is a prime": _is_prime,
    "a modulus that is easily factored": _is_smooth,
}
