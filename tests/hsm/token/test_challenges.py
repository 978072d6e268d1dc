"""Private keys that only a signature tells apart: the right one is found, and few signatures are made."""

from __future__ import annotations

import functools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from hsm.errors import MemberLostError, RefusedError, SessionLostError
from hsm.schemes import Scheme
from hsm.token import challenges
from hsm.token.challenges import MOST, ROUND_S, Challenges, Mark


class Signing:
    """A private key of a token, which counts its signatures. `error` is what it answers instead."""

    def __init__(self, number: int, *, signs: bool = True, error: Exception | None = None) -> None:
        self.number, self.signs, self.error, self.signed = number, signs, error, 0
        self.seconds = 0.0

    @property
    def mark(self) -> Mark:
        """All have one label and one id."""
        return self.number, "label", b"id"

    def sign(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes:
        """A P-256 signature."""
        self.signed += 1
        if self.error is not None:
            raise self.error
        assert message is not None
        assert scheme.digest(message) == digest
        return private(self.number).sign(digest, ec.ECDSA(Prehashed(scheme.hash)))


@functools.cache
def private(number: int) -> ec.EllipticCurvePrivateKey:
    """A key of that number."""
    return ec.derive_private_key(number + 1, ec.SECP256R1())


def public(number: int) -> ec.EllipticCurvePublicKey:
    """Its public half."""
    return private(number).public_key()


def test_each_key_signs_once_whoever_is_looked_for() -> None:
    """Twenty keys that look alike are told apart by one signature of each, and all are found."""
    keys, known = [Signing(number) for number in range(20)], Challenges()
    for number in (19, 3, 11, 0, 19):
        assert known.find(public(number), keys) == (keys[number], 0)
    assert [key.signed for key in keys] == [1] * 20


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds, as the challenges read it."""
    now = [1000.0]
    monkeypatch.setattr(challenges.time, "monotonic", lambda: now[0])
    return now


def test_a_round_among_hundreds_is_bounded_and_the_next_goes_on(clock: list[float]) -> None:
    """Of 150 keys, none of which is the wanted one, a round asks a bounded number; later ones ask the rest, once."""
    keys, known = [Signing(number) for number in range(150)], Challenges()
    left = []
    for _ in range(4):
        found, untried = known.find(public(1000), keys)
        assert found is None
        left.append(untried)
        clock[0] += ROUND_S + 1
    assert left == [150 - MOST, 150 - 2 * MOST, 0, 0]
    assert sum(key.signed for key in keys) == 150
    assert known.find(public(149), keys) == (keys[149], 0)


def test_many_missing_keys_share_one_round(clock: list[float]) -> None:
    """A member that looks for twenty keys which it has not: all of them together cost one round."""
    keys, known = [Signing(number) for number in range(150)], Challenges()
    for wanted in range(1000, 1020):
        assert known.find(public(wanted), keys) == (None, 150 - MOST)
    assert known.proves(keys[149], [public(149)]) is None
    assert sum(key.signed for key in keys) == MOST
    clock[0] += ROUND_S + 1
    assert known.proves(keys[149], [public(149)]) == public(149)


def test_a_slow_hsm_is_asked_for_fewer(clock: list[float]) -> None:
    """Signatures of two seconds each: a round ends in time for a member's start."""

    class Slow(Signing):
        def sign(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes:
            clock[0] += 2
            return super().sign(scheme, digest, message)

    keys, known = [Slow(number) for number in range(9)], Challenges()
    assert known.find(public(8), keys) == (None, 6)
    assert known.find(public(7), keys) == (None, 6)
    assert clock[0] == 1006


def test_a_key_that_signs_nothing_hides_no_other() -> None:
    """Keys that may not sign, or answer with a refusal or a general failure, are passed over."""
    odd = [
        Signing(1, signs=False),
        Signing(2, error=RefusedError("CKR_KEY_FUNCTION_NOT_PERMITTED", 0x68)),
        Signing(3, error=MemberLostError("CKR_GENERAL_ERROR", 0x05)),
    ]
    right, known = Signing(4), Challenges()
    for _ in range(2):
        assert known.find(public(4), [*odd, right]) == (right, 0)
    assert [one.signed for one in [*odd, right]] == [0, 1, 1, 1]


@pytest.mark.parametrize("error", [SessionLostError("gone", 0xB3), MemberLostError("lost", 0x30)])
def test_a_session_that_is_lost_is_said(error: Exception) -> None:
    """A lost session or HSM is no key's fault: it is raised, and nothing is remembered of the key."""
    key, known = Signing(1, error=error), Challenges()
    with pytest.raises(type(error)):
        known.find(public(1), [key])
    key.error = None
    assert known.find(public(1), [key]) == (key, 0)


def test_the_public_half_is_told_by_the_signature() -> None:
    """Of several public halves beside a key the one is believed that its signature verifies with."""
    key = Signing(7)
    assert Challenges().proves(key, [public(5), public(7)]) is not None
    known = Challenges()
    found = known.proves(key, [public(5), public(7)])
    assert found is not None
    assert found.public_numbers() == public(7).public_numbers()  # type: ignore[union-attr]  # it is an EC key
    assert known.proves(key, [public(5)]) is None
    assert Challenges().proves(key, []) is None


def test_an_rsa_key_is_told_by_its_signature_too() -> None:
    """A token may hide an RSA key's modulus."""
    one, other = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)

    class Rsa(Signing):
        def sign(self, scheme: Scheme, digest: bytes, message: bytes | None) -> bytes:
            if scheme.family != "rsa_pkcs1":
                raise RefusedError("not this scheme")
            return one.sign(digest, padding.PKCS1v15(), Prehashed(scheme.hash))

    keys = [Signing(1, error=RefusedError("an EC key")), Rsa(2)]
    assert Challenges().find(one.public_key(), keys) == (keys[1], 0)
    assert Challenges().find(other.public_key(), keys) == (None, 0)
