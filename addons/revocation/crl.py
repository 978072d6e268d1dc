"""One CRL (RFC 5280 section 5): is it its issuer's, does it count now, and is a certificate in it? No I/O, no clock.

A list may have a quarter of a million entries. cryptography reads such a one in 22 ms, and needs 124 ms for its
signature, with the interpreter's lock held: on a thread, too, the event loop would stand still. So the list is cut in
two where its entries begin: its head, and an entry that was found, are made into lists of their own that cryptography
reads; the signature goes over the bytes as they came, hashed without the lock; entries are found as text is.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

from asn1crypto import parser as der
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from msgspec import Struct

from addons.revocation.named import STRANGE
from addons.revocation.ocsp import utc

_CLOCKS_DIFFER = dt.timedelta(minutes=5)
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_SEQUENCE, _INTEGER, _TIMES = 0x30, 0x02, (b"\x17\x0d", b"\x18\x0f")
_BESIDE = 64 << 10
"""Bytes of a list without its entries: names and extensions, which are read before anybody knows whose they are."""
_SLICE = 1 << 20
"""So much is searched at a time: the interpreter's lock is held for it."""


class CrlError(ValueError):
    """A list that says nothing of the certificate."""


class _Cut(Struct, frozen=True):
    """A list in its parts, as they came: `head` and `tail` stand before and behind the entries, `behind` has the
    algorithm and the signature."""

    head: bytes
    entries: bytes
    tail: bytes
    behind: bytes

    @property
    def beside(self) -> int:
        """Bytes of all but the entries."""
        return len(self.head) + len(self.tail) + len(self.behind)

    def list_of(self, entries: bytes) -> x509.CertificateRevocationList:
        """The same list with these entries alone."""
        within = der.emit(0, 1, 16, entries) if entries else b""
        signed = der.emit(0, 1, 16, self.head + within + self.tail)
        return x509.load_der_x509_crl(der.emit(0, 1, 16, signed + self.behind))


class Crl:
    """A list that was verified. It is not changed: threads may share it."""

    def __init__(self, cut: _Cut, parsed: x509.CertificateRevocationList, until: dt.datetime) -> None:
        self._cut = cut
        self._scope = _scope(parsed)
        self.this_update = parsed.last_update_utc
        self.next_update = until

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return self._cut.beside + len(self._cut.entries)

    def revoked(self, serial: int, points: Sequence[str], *, ca: bool) -> dt.datetime | None:
        """Since when the certificate with this serial number is revoked; None: it is not. `points` are the names that
        the certificate, one of a CA or not, has for its lists. Raises CrlError where this one does not cover it.
        """
        _check_scope(self._scope, points, ca=ca)
        for entry in _found(self._cut.entries, serial):
            try:
                one = self._cut.list_of(entry)[0]
            except STRANGE:
                continue
            if one.serial_number == serial:
                return one.revocation_date_utc
        return None


def read(data: bytes, issuer: x509.Certificate, now: dt.datetime) -> Crl:
    """The list `data` (DER) of `issuer`. Raises CrlError with what is wrong with it."""
    try:
        signed, cut = _cut(data)
        if cut.beside > _BESIDE:
            raise CrlError(f"the CRL has more than {_BESIDE >> 10} KiB beside its entries")
        parsed = cut.list_of(b"")
        _check_issuer(parsed, issuer)
        _check_extensions(parsed)
        until = _until(parsed, now)
        _check_signature(signed, cut, parsed, issuer)
        return Crl(cut, parsed, until)
    except CrlError:
        raise
    except STRANGE as error:
        raise CrlError(f"the CRL cannot be read: {error!r:.200}") from error


def _cut(data: bytes) -> tuple[memoryview, _Cut]:
    """What the signature is over, and the parts (RFC 5280 section 5.1)."""
    tag, begin, end = _element(data, 0)
    if tag != _SEQUENCE or end != len(data):
        _no_list()
    tag, first, last = _element(data, begin)
    if tag != _SEQUENCE:
        _no_list()
    at, sequences = first, 0
    entries = (last, last, last)  # where there are none
    while at < last:
        tag, inside, after = _element(data, at)
        sequences += tag == _SEQUENCE
        if tag == _SEQUENCE and sequences == 3:  # behind the algorithm and the issuer
            entries = (at, inside, after)
        if tag == 0xA0 and sequences < 3:
            entries = (at, at, at)
        at = after
    if at != last or last > end:
        _no_list()
    before, inside, after = entries
    signed = memoryview(data)[begin:last]
    return signed, _Cut(data[first:before], data[inside:after], data[after:last], data[last:end])


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """The DER element at `at`: its tag, where its content begins, and where it ends (X.690 section 8.1)."""
    head = data[at : at + 6]
    if len(head) < 2:
        _no_list()
    length, begin = head[1], at + 2
    if length > 0x80:
        more = length - 0x80
        length, begin = int.from_bytes(head[2 : 2 + more]), begin + more
        if more > 4:
            _no_list()
    elif length == 0x80:
        _no_list()
    if begin + length > len(data):
        _no_list()
    return head[0], begin, begin + length


def _no_list() -> NoReturn:
    raise CrlError("what came is no CRL in DER")


def _found(entries: bytes, serial: int) -> Iterator[bytes]:
    """What looks like an entry with this serial number: its bytes, or something else's."""
    number = serial.to_bytes(serial.bit_length() // 8 + 1, signed=True)
    number = bytes([_INTEGER, len(number)]) + number
    for time in _TIMES:
        wanted = number + time
        for place in _places(entries, wanted):
            for header in (2, 3, 4):
                begin = place - header
                if begin >= 0 and entries[begin] == _SEQUENCE:
                    try:
                        _, inside, end = _element(entries, begin)
                    except CrlError:
                        continue
                    if inside == place:
                        yield entries[begin:end]


def _places(entries: bytes, wanted: bytes) -> Iterator[int]:
    for begin in range(0, len(entries), _SLICE):
        end = begin + _SLICE + len(wanted) - 1
        place = entries.find(wanted, begin, end)
        while place >= 0:
            yield place
            place = entries.find(wanted, place + 1, end)


def _check_issuer(parsed: x509.CertificateRevocationList, issuer: x509.Certificate) -> None:
    if parsed.issuer != issuer.subject:
        raise CrlError(f"the CRL is of another issuer, {parsed.issuer.rfc4514_string():.100}")
    try:
        usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.crl_sign:
        raise CrlError("the CRL's issuer may not sign any (KeyUsage)")


def _check_extensions(parsed: x509.CertificateRevocationList) -> None:
    """RFC 5280 section 5.2: what is critical and not understood forbids use; a delta is not a whole list."""
    for one in parsed.extensions:
        if isinstance(one.value, x509.DeltaCRLIndicator):
            raise CrlError("the CRL has changes alone (a delta CRL)")
        if one.critical and not isinstance(
            one.value, x509.IssuingDistributionPoint | x509.AuthorityKeyIdentifier | x509.CRLNumber
        ):
            raise CrlError(f"the CRL has a critical extension that is not known here, {one.oid.dotted_string}")


def _until(parsed: x509.CertificateRevocationList, now: dt.datetime) -> dt.datetime:
    if parsed.last_update_utc > now + _CLOCKS_DIFFER:
        raise CrlError(f"the CRL is valid from {utc(parsed.last_update_utc)} on; check the clock")
    if parsed.next_update_utc is None:
        raise CrlError("the CRL does not say when it expires (nextUpdate)")
    if parsed.next_update_utc <= now:
        raise CrlError(f"the CRL expired at {utc(parsed.next_update_utc)}")
    return parsed.next_update_utc


def _check_signature(
    signed: memoryview, cut: _Cut, parsed: x509.CertificateRevocationList, issuer: x509.Certificate
) -> None:
    digest, key = parsed.signature_hash_algorithm, issuer.public_key()
    algorithm = _HASHES.get(digest.name if digest else "")
    if algorithm is None:
        name = digest.name.upper() if digest else parsed.signature_algorithm_oid.dotted_string
        raise CrlError(f"the CRL is signed with {name}; SHA-256, SHA-384 and SHA-512 are accepted")
    if not _is_same_algorithm(cut):
        raise CrlError("the CRL names two algorithms for its signature")
    hashed, how = hashlib.new(algorithm.name, signed).digest(), parsed.signature_algorithm_parameters
    try:
        match key, how:
            case rsa.RSAPublicKey(), padding.PKCS1v15() | padding.PSS():
                key.verify(parsed.signature, hashed, how, Prehashed(algorithm))
            case ec.EllipticCurvePublicKey(), ec.ECDSA():
                key.verify(parsed.signature, hashed, ec.ECDSA(Prehashed(algorithm)))
            case _:
                raise CrlError("the CRL is signed with a key that is neither RSA nor ECDSA")
    except InvalidSignature:
        raise CrlError("the CRL's signature does not verify with its issuer's key") from None


def _is_same_algorithm(cut: _Cut) -> bool:
    """RFC 5280 section 5.1.1.2: the algorithm inside of what is signed is that outside of it."""
    at = 0
    tag, _, after = _element(cut.head, at)
    if tag == _INTEGER:
        at, (_, _, after) = after, _element(cut.head, after)
    return cut.behind.startswith(cut.head[at:after])


def _scope(parsed: x509.CertificateRevocationList) -> x509.IssuingDistributionPoint | None:
    try:
        return parsed.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return None


def _check_scope(scope: x509.IssuingDistributionPoint | None, points: Sequence[str], *, ca: bool) -> None:
    """RFC 5280 section 6.3.3 (b) (2), for the distribution points that the certificate names."""
    if scope is None:
        return
    if scope.indirect_crl or scope.only_some_reasons or scope.only_contains_attribute_certs:
        raise CrlError("the CRL is an indirect one, or for some reasons or attribute certificates alone")
    if (scope.only_contains_user_certs and ca) or (scope.only_contains_ca_certs and not ca):
        raise CrlError("the CRL is for another kind of certificate")
    if scope.relative_name is not None:
        raise CrlError("the CRL is for a distribution point with a relative name")
    if scope.full_name is not None and not any(one.value in points for one in scope.full_name):
        raise CrlError("the CRL is for another distribution point")
