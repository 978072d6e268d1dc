"""The verification of a chain once more, with certificates that the server forgot to send.

OpenSSL verifies within the handshake, and is not to be had again for that connection. So it is asked for the chain
alone; what it had against the server's own certificate (its name, its time, what it is for) stands as it was said in
the handshake. Without a callback it stops at its first complaint, and an end that has passed or a purpose hides a
signature that is wrong. So it is asked first what must hold for anything to be worth judging, and then for each of
those alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import certifi
from cryptography import x509
from msgspec import Struct
from OpenSSL import SSL, crypto

from addons.records.facts import Verification
from addons.upstream.faults import NO_ISSUER

_SSL_SERVER = 2
"""X509_PURPOSE_SSL_SERVER of x509v3.h."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of x509_vfy.h, which pyOpenSSL does not name."""


class Roots(Struct, frozen=True):
    """What servers are verified with: a directory, a file in PEM; certifi's where there is neither."""

    directory: str | None = None
    file: str | None = None

    @property
    def place(self) -> str | None:
        """The file, as OpenSSL's CAfile."""
        return self.file if self.file or self.directory else certifi.where()


def complaints(
    said: Sequence[Verification],
    chain: Sequence[x509.Certificate],
    more: Sequence[x509.Certificate],
    roots: Roots,
) -> tuple[list[Verification], list[x509.Certificate]]:
    """What is wrong with `chain` (the server's own first) where `more` stands behind it, and the whole chain, as
    OpenSSL builds it. `said` was wrong in the handshake."""
    kept = [one for one in said if one.code not in NO_ISSUER]
    first, built = _asked(_store(roots, time=False, purpose=False), chain, more)
    if first is not None:
        return [*kept, first], [*chain, *more]
    for time in (True, False):
        again, _ = _asked(_store(roots, time=time, purpose=not time), chain, more)
        if again is not None and not any((one.code, one.depth) == (again.code, again.depth) for one in kept):
            kept.append(again)
    return kept, built


def leads(chain: Sequence[x509.Certificate], more: Sequence[x509.Certificate], roots: Roots) -> bool:
    """Whether `chain` leads to a root with `more` behind it, whatever else is wrong with it."""
    first, _ = _asked(_store(roots, time=False, purpose=False), chain, more)
    return first is None or first.code not in NO_ISSUER


def forget() -> None:
    """Files of roots are read again from now on."""
    _store.cache_clear()


def _asked(
    store: crypto.X509Store, chain: Sequence[x509.Certificate], more: Sequence[x509.Certificate]
) -> tuple[Verification | None, list[x509.Certificate]]:
    behind = [crypto.X509.from_cryptography(one) for one in (*chain[1:], *more)]
    context = crypto.X509StoreContext(store, crypto.X509.from_cryptography(chain[0]), behind)
    try:
        return None, [one.to_cryptography() for one in context.get_verified_chain()]
    except crypto.X509StoreContextError as error:
        code, depth, words = error.errors
        return Verification(code, depth, words), []


@functools.lru_cache(maxsize=16)
def _store(roots: Roots, *, time: bool, purpose: bool) -> crypto.X509Store:
    made = crypto.X509Store()
    made.load_locations(roots.place, roots.directory)
    if not time:
        made.set_flags(_NO_CHECK_TIME)
    if purpose:
        SSL._openssl_assert(SSL._lib.X509_STORE_set_purpose(made._store, _SSL_SERVER) == 1)  # type: ignore[attr-defined]  # noqa: SLF001
    return made
