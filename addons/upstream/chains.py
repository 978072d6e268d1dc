"""Chains that lack an intermediate: the server forgot it, and its certificate says where it is.

What is fetched stands beside what the server sent: OpenSSL tries both for a chain up to a known root, and verifies that
as it verifies a server's in a handshake, purpose and name included. Nothing that was fetched is trusted for it.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections.abc import Awaitable, Generator, Iterable, Sequence

import certifi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from mitmproxy.addons.tlsconfig import DEFAULT_HOSTFLAGS
from msgspec import Struct
from OpenSSL import SSL, crypto

from addons.records.facts import Verification
from addons.revocation import named, ocsp
from addons.revocation.named import STRANGE
from addons.upstream.issuers import Issuers

_SENT, _DEPTH = 10, 4
"""Certificates of a server's that are looked at, and how many of its chain may be missing."""
_LIKELY = 3
"""So many that have the issuer's name are tried for the issuer's key: a try is a signature to verify."""
_WITHIN_S = 5.0
_MISSING = (2, 20, 21)
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, ..._LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: x509_vfy.h."""
_UNKNOWN_ROOT = (18, 19)
"""X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN."""


Certificates = tuple[x509.Certificate, ...]


class Completed(Struct, frozen=True):
    """A chain up to a known root: DER, the server's certificate first, the root last. `verification` is what OpenSSL
    says of it now: its code may be another fault than a missing issuer, such as the name's (then the root may be
    missing in `certificates`)."""

    certificates: tuple[bytes, ...]
    verification: Verification


Building = Generator[Awaitable[Certificates], Certificates, Completed | None]


class Chains:
    """Completes chains for one worker. Among its addons, so that it is found there."""

    name = "chains"

    def __init__(self, issuers: Issuers, roots: str | None = None, directory: str | None = None) -> None:
        """`roots` and `directory` hold the roots as OpenSSL has them (CAfile, CApath); neither: Mozilla's (certifi)."""
        self._issuers = issuers
        self._roots = (roots or (None if directory else certifi.where()), directory)

    def completed(
        self, certificates: Sequence[bytes], name: str, near: str
    ) -> Completed | Awaitable[Completed | None] | None:
        """The chain from what a server has sent (DER, its own certificate first), which did not verify for want of an
        issuer: at once where all is known, else within 5 s. None where it cannot be completed.

        `name` is the name or address that the certificate must carry, `near` the server's address.
        """
        try:
            sent = [x509.load_der_x509_certificate(one) for one in certificates[:_SENT]]
            if not sent:
                return None
            building = self._building(sent, name, near)
            waiting = next(building)
        except StopIteration as end:
            done: Completed | None = end.value
            return done
        except STRANGE:
            return None
        return self._go_on(building, waiting)

    async def _go_on(self, building: Building, waiting: Awaitable[Certificates]) -> Completed | None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                while True:
                    waiting = building.send(await waiting)
        except StopIteration as end:
            done: Completed | None = end.value
            return done
        except (TimeoutError, *STRANGE):
            return None

    def _building(self, pool: list[x509.Certificate], name: str, near: str) -> Building:
        """Step by step; what is yielded is to be waited for and sent in."""
        for _ in range(_DEPTH):
            if (found := self._verified(pool, name)) is not None:
                return found
            top = _walk(pool)[-1]
            if top.subject == top.issuer:
                return None  # nothing is missing: it is a root that nobody knows
            more: list[x509.Certificate] = []
            for url in named.issuers(top):
                known = self._issuers.at(url, near)
                found_there = known if isinstance(known, tuple) else (yield known)
                if (above := _issuer(top, [one for one in found_there if one not in pool])) is not None:
                    more.append(above)
            if not more:
                return None
            pool = [*pool, *more]
        return self._verified(pool, name)

    def _verified(self, pool: Sequence[x509.Certificate], name: str) -> Completed | None:
        """What OpenSSL makes of the first of `pool` with the others' help; None where no known root is reached."""
        leaf, *others = (crypto.X509.from_cryptography(one) for one in pool)
        stores = _stores(*self._roots)
        try:
            chain = crypto.X509StoreContext(stores.towards(name), leaf, others).get_verified_chain()
        except crypto.X509StoreContextError as error:
            code, depth, words = error.errors
            if code in _MISSING or code in _UNKNOWN_ROOT:
                return None
            return Completed(_der(_walk(pool)), Verification(code, depth, words))
        return Completed(_der(one.to_cryptography() for one in chain), Verification(0, 0, "ok"))


class _Stores:
    """The roots, for OpenSSL. What is verified is a parameter of a store in pyOpenSSL's interface: names and addresses
    have one each, for neither can be taken out again."""

    def __init__(self, roots: str | None, directory: str | None) -> None:
        self._names, self._addresses = _store(roots, directory), _store(roots, directory)

    def towards(self, name: str) -> crypto.X509Store:
        """The store that verifies TLS servers for this name or address, until it is asked for the next."""
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # noqa: SLF001  # not in pyOpenSSL's interface
        param = ffi.gc(lib.X509_VERIFY_PARAM_new(), lib.X509_VERIFY_PARAM_free)
        lib.X509_VERIFY_PARAM_set_hostflags(param, DEFAULT_HOSTFLAGS)
        try:
            packed = ipaddress.ip_address(name).packed
        except ValueError:
            given = name.encode("idna")
            store, ok = self._names, lib.X509_VERIFY_PARAM_set1_host(param, given, len(given))
        else:
            store, ok = self._addresses, lib.X509_VERIFY_PARAM_set1_ip(param, packed, len(packed))
        SSL._openssl_assert(ok == 1 and lib.X509_STORE_set1_param(store._store, param) == 1)  # noqa: SLF001
        return store


def _store(roots: str | None, directory: str | None) -> crypto.X509Store:
    made = crypto.X509Store()
    made.load_locations(roots, directory)
    lib = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001
    SSL._openssl_assert(lib.X509_STORE_set_purpose(made._store, lib.X509_PURPOSE_SSL_SERVER) == 1)  # noqa: SLF001
    return made


@functools.lru_cache(maxsize=4)
def _stores(roots: str | None, directory: str | None) -> _Stores:
    return _Stores(roots, directory)


def _walk(pool: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """The first of `pool`, its issuer, and so on as far as they are there."""
    walked = [pool[0]]
    while (above := _issuer(walked[-1], [one for one in pool if one not in walked])) is not None:
        walked.append(above)
    return walked


def _issuer(certificate: x509.Certificate, pool: Sequence[x509.Certificate]) -> x509.Certificate | None:
    likely = [one for one in pool if one.subject == certificate.issuer][:_LIKELY]
    return next((one for one in likely if ocsp.is_issuer(one, certificate)), None)


def _der(certificates: Iterable[x509.Certificate]) -> tuple[bytes, ...]:
    return tuple(one.public_bytes(Encoding.DER) for one in certificates)
