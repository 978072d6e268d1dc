"""Public keys that a worker wants leaves for: which are taken, and which are anybody's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.certificates import leaf_key as leaf_key_module
from hsm.certificates.leaf_key import cost, leaf_key, secret_of
from hsm.errors import RefusedError
from tests.hsm.certificates.software import private_key, spki


def der(length: int, content: bytes, tag: int) -> bytes:
    """A DER value, whose content has `length` bytes."""
    head = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2)
    return bytes([tag]) + head + content


def integer(number: int) -> bytes:
    """A DER INTEGER that is not negative."""
    raw = number.to_bytes(number.bit_length() // 8 + 1)
    return der(len(raw), raw, 2)


def rsa_spki(n: int, e: int = 65537) -> bytes:
    """An RSA key of any numbers as a worker sends it: cryptography does not make all that are wrong."""
    key = integer(n) + integer(e)
    bits = b"\0" + der(len(key), key, 0x30)
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    content = algorithm + der(len(bits), bits, 3)
    return der(len(content), content, 0x30)


SOUND = private_key("rsa").public_key().public_numbers().n


def prime_from(start: int) -> int:
    """The next prime, above 2^16, by Fermat's test."""
    candidates = (n for n in count(start | 1, 2) if not leaf_key_module._has_small_factor(n))
    return next(n for n in candidates if pow(2, n - 1, n) == 1)


def near(middle: int) -> int:
    """A product of two numbers that are almost the same, and have no small factor."""
    low, high = (
        next(n for n in count(middle | 1, step) if not leaf_key_module._has_small_factor(n)) for step in (-2, 2)
    )
    return low * high


def primes(bits: int) -> Iterator[int]:
    """Primes of that size, one after another."""
    place = 1 << (bits - 1)
    while True:
        place = prime_from(place + 1)
        yield place


def many_primes(bits: int) -> int:
    """A modulus of 2048 bits or a little more, whose factors are all of this size."""
    n = 1
    for prime in primes(bits):
        n *= prime
        if n.bit_length() >= 2048:
            return n
    raise AssertionError


P = prime_from(3 << 1022 | 0x1234567 << 400)
ODD_PRIMES = math.prod(n for n in range(3, 750) if all(n % k for k in range(2, n)))
SMOOTH = next(
    n
    for twos in range(1, 10)
    for threes in range(6)
    for fives in range(4)
    if pow(2, (n := 1 + 2**twos * 3**threes * 5**fives * ODD_PRIMES) - 1, n) == 1
)
"""A prime of more than 1,024 bits: the one before it is a product of small powers."""
WEAK: dict[str, tuple[Callable[[], bytes], str]] = {
    "e is 1": (lambda: rsa_spki(SOUND, 1), "exponent|SubjectPublicKeyInfo"),
    "e is 2": (lambda: rsa_spki(SOUND, 2), "exponent|SubjectPublicKeyInfo"),
    "e is 3": (lambda: rsa_spki(SOUND, 3), "a public exponent"),
    "e is 65535": (lambda: rsa_spki(SOUND, 65535), "a public exponent"),
    "e is even": (lambda: rsa_spki(SOUND, 65538), "exponent|SubjectPublicKeyInfo"),
    "e is enormous": (lambda: rsa_spki(SOUND, SOUND - 2), "exponent|SubjectPublicKeyInfo"),
    "e has 65 bits": (lambda: rsa_spki(SOUND, (1 << 64) + 13), "a public exponent"),
    "n is even": (lambda: rsa_spki(SOUND + 1), "small factor|SubjectPublicKeyInfo"),
    "n is a power of 2": (lambda: rsa_spki(1 << 2047), "small factor|SubjectPublicKeyInfo"),
    "n is one more": (lambda: rsa_spki((1 << 2047) + 1), "small factor"),
    "n is a power of 3": (lambda: rsa_spki(3**1293), "small factor"),
    "a factor of 751": (lambda: rsa_spki(751 * (SOUND >> 9 | 1)), "small factor"),
    "a factor of 65521": (lambda: rsa_spki(65521 * (SOUND >> 15 | 1)), "small factor"),
    "a square": (lambda: rsa_spki(P * P), "a power"),
    "a cube": (lambda: rsa_spki(prime_from(1 << 700) ** 3), "a power"),
    "a 127th power": (lambda: rsa_spki(prime_from(3 << 15) ** 127), "a power"),
    "almost a square": (lambda: rsa_spki(near(P + 2)), "close together"),
    "a prime": (lambda: rsa_spki(prime_from(1 << 2047 | 1 << 999)), "a prime"),
    "primes of 18 bits": (lambda: rsa_spki(many_primes(18)), "easily factored"),
    "a smooth p - 1": (lambda: rsa_spki(P * SMOOTH), "easily factored"),
}


@pytest.mark.parametrize(("made", "why"), WEAK.values(), ids=list(WEAK))
def test_a_key_that_anybody_can_work_out(made: Callable[[], bytes], why: str) -> None:
    """No leaf says that a server has a key whose private half can be had by looking at it."""
    for _ in range(2):
        with pytest.raises(RefusedError, match=why):
            leaf_key(made())


@pytest.mark.parametrize("e", [65537, 65539, (1 << 32) + 15, (1 << 64) - 59])
def test_other_exponents_that_are_sound(e: int) -> None:
    """Odd exponents from 65537 on are taken."""
    key = leaf_key(rsa_spki(SOUND, e))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.public_numbers().e == e


def test_keys_that_workers_make() -> None:
    """The keys of our workers are sound, each time one is made."""
    for _ in range(5):
        assert leaf_key(spki(rsa.generate_private_key(65537, 2048)))
        assert leaf_key(spki(ec.generate_private_key(ec.SECP256R1())))


def test_a_key_is_looked_at_once() -> None:
    """A worker's key costs the signer its time once, sound or not; and what is remembered is bounded."""
    for raw in (spki(rsa.generate_private_key(65537, 2048)), rsa_spki(SOUND, 5)):
        assert 0.9 < cost(raw) < 1.1
        with suppress(RefusedError):
            leaf_key(raw)
        assert cost(raw) == 0
    assert cost(spki(private_key("p256"))) == 0, "an EC key is never costly"
    assert cost(bytes(550)) > 6, "a long key is more"
    for number in range(2 * leaf_key_module._KNOWN):
        with pytest.raises(RefusedError):
            leaf_key(b"%d" % number)
    assert len(leaf_key_module._examined) == leaf_key_module._KNOWN


def test_keys_that_share_their_secret() -> None:
    """A CA's key is known again whatever the exponent beside its modulus, and with its point turned over."""
    key = private_key("p256").public_key()
    numbers = key.public_numbers()
    prime = (1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1
    turned = ec.EllipticCurvePublicNumbers(numbers.x, prime - numbers.y, ec.SECP256R1()).public_key()
    assert turned.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki(private_key("p256"))
    assert secret_of(turned) == secret_of(key) != secret_of(private_key("p256", 1).public_key())
    assert secret_of(leaf_key(rsa_spki(SOUND, 65539))) == secret_of(private_key("rsa").public_key())
    assert secret_of(private_key("p384").public_key())[0] == "secp384r1"
